//! The name server of a container.

use std::net::Ipv4Addr;

/// Where containers send their questions.
pub const SERVER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 11);
/// Where they arrive: outside the range of ports that the kernel gives away by itself.
pub const PORT: u16 = 65353;
