//! What UPnP Internet gateways and those who ask them say: discovery (SSDP), HTTP, device
//! descriptions, SOAP, and the actions that map ports.
//!
//! | module | what |
//! |---|---|
//! | [`url`] | addresses of descriptions and controls: literal IP addresses only |
//! | [`http`] | requests and answers of HTTP/1.1, collected with bounds |
//! | [`ssdp`] | M-SEARCH, its answers, NOTIFY |
//! | [`xml`] | what all documents have in common: limits and repairs |
//! | [`description`] | devices and services |
//! | [`soap`] | calls, answers and faults |
//! | [`igd`] | the actions of WANIPConnection, WANPPPConnection and WANIPv6FirewallControl |
//!
//! Every module reads and writes both sides. Reading is tolerant where real gateways are
//! wrong, and bounded everywhere. Out of scope: eventing (GENA) beyond its HTTP, and service
//! descriptions (SCPD).

pub mod description;
pub mod http;
pub mod igd;
pub mod soap;
pub mod ssdp;
pub mod url;
pub mod xml;

#[cfg(test)]
mod tests;
