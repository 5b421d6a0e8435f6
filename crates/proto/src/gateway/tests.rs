//! A gateway, its clients, a kernel that keeps what it is told, and a clock.

mod natpmp;
mod pcp;
mod support;
