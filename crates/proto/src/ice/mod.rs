//! An ICE agent (RFC 8445).
