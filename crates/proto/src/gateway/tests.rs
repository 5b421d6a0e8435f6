//! A gateway, its clients, a kernel that keeps what it is told, and a clock.

mod events;
mod hostile;
mod mappings;
mod model;
mod natpmp;
mod pcp;
mod pinholes;
mod ssdp;
mod support;
