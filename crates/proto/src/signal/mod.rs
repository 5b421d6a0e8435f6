//! Rendezvous by a short code: mailboxes, SPAKE2 and sealed messages.
