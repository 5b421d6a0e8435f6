//! STUN client transactions and the Binding server (RFC 8489).
