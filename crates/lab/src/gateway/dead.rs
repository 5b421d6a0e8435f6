//! Gateways whose mappings are listed and do not work: only a look from outside tells.

use postern_proto::portmap::Protocol;

use super::cast::{Expected, Role, role};
use super::personality::{Forwards, NatPmp, Pcp, Personality};

/// Those that lead nothing in until a mapping is deleted and made again, and those that never do.
pub(super) fn dead() -> Vec<Role> {
    let gateway = |pcp, natpmp, forwards| Personality {
        pcp,
        natpmp,
        upnp: (pcp, natpmp) == (Pcp::Off, NatPmp::Off),
        forwards,
        ..Personality::default()
    };
    let (pcp, natpmp) = (Expected::by(Protocol::Pcp), Expected::by(Protocol::NatPmp));
    vec![
        role(
            "UPnP mappings are dead until they are made again",
            gateway(Pcp::Off, NatPmp::Off, Forwards::AfterDeletion),
            Expected::UPNP,
        ),
        role(
            "NAT-PMP mappings are dead until they are made again",
            gateway(Pcp::Off, NatPmp::On, Forwards::AfterDeletion),
            natpmp,
        ),
        role(
            "PCP mappings are dead until they are made again",
            gateway(Pcp::On, NatPmp::Off, Forwards::AfterDeletion),
            pcp,
        ),
        role(
            "UPnP mappings are listed and lead nowhere",
            gateway(Pcp::Off, NatPmp::Off, Forwards::Never),
            Expected::UPNP,
        ),
        role(
            "PCP mappings lead nowhere",
            gateway(Pcp::On, NatPmp::Off, Forwards::Never),
            pcp,
        ),
    ]
}
