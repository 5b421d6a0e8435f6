//! The transfer protocol: offers, files and receipts on a connection between two peers.
