//! The mailbox protocol, and the messages that two peers seal to each other.
