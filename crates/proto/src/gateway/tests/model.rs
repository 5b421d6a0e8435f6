//! Random requests of many hosts over all protocols: what the kernel holds is what was
//! granted, no two hosts have the same port, and nobody changes what is another's.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use postern_wire::natpmp;
use postern_wire::pcp::{Map, Nonce, Operation, Options, Request};
use postern_wire::transport::Transport;
use proptest::prelude::*;

use super::super::Origin;
use super::support::{Bed, entry, with};

/// One thing that a host does.
#[derive(Debug, Clone)]
enum Step {
    NatPmp {
        host: u8,
        inside: u16,
        outside: u16,
        life: u32,
    },
    Pcp {
        host: u8,
        nonce: u8,
        inside: u16,
        outside: u16,
        life: u32,
    },
    Add {
        host: u8,
        inside: u16,
        outside: u16,
        life: u32,
        any: bool,
    },
    Delete {
        host: u8,
        outside: u16,
    },
    Pass {
        seconds: u64,
    },
    Refuse(bool),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let host = 10..13_u8;
    let port = || 4000..4006_u16;
    let life = prop_oneof![Just(0), 1..2000_u32];
    let nat_pmp = (host.clone(), port(), port(), life.clone());
    let pcp = (host.clone(), 1..3_u8, port(), port(), life.clone());
    let add = (host.clone(), port(), port(), life, any::<bool>());
    let step = prop_oneof![
        4 => nat_pmp.prop_map(|(host, inside, outside, life)| {
            Step::NatPmp { host, inside, outside, life }
        }),
        4 => pcp.prop_map(|(host, nonce, inside, outside, life)| {
            Step::Pcp { host, nonce, inside, outside, life }
        }),
        4 => add.prop_map(|(host, inside, outside, life, any)| {
            Step::Add { host, inside, outside, life, any }
        }),
        2 => (host, port()).prop_map(|(host, outside)| Step::Delete { host, outside }),
        2 => (1..600_u64).prop_map(|seconds| Step::Pass { seconds }),
        1 => any::<bool>().prop_map(Step::Refuse),
    ];
    prop::collection::vec(step, 1..60)
}

fn take(bed: &mut Bed, step: &Step) {
    match *step {
        Step::NatPmp {
            host,
            inside,
            outside,
            life,
        } => {
            let map = natpmp::Map {
                transport: Transport::Tcp,
                internal_port: inside,
                external_port: outside,
                lifetime: life,
            };
            let answers = bed.send(&address(host), &natpmp::Request::Map(map).to_bytes());
            assert_eq!(answers.len(), 1);
        }
        Step::Pcp {
            host,
            nonce,
            inside,
            outside,
            life,
        } => {
            let request = Request {
                lifetime: life,
                client: address(host).parse().unwrap(),
                operation: Operation::Map(Map {
                    nonce: Nonce([nonce; 12]),
                    protocol: 6,
                    internal_port: inside,
                    external_port: outside,
                    external_address: [0; 4].into(),
                }),
                options: Options::default(),
            };
            let answers = bed.send(&address(host), &request.to_bytes());
            assert_eq!(answers.len(), 1);
        }
        Step::Add {
            host,
            inside,
            outside,
            life,
            any,
        } => {
            let action = if any {
                "AddAnyPortMapping"
            } else {
                "AddPortMapping"
            };
            let mut arguments = entry().to_arguments();
            for (name, value) in [
                ("NewInternalClient", address(host)),
                ("NewInternalPort", inside.to_string()),
                ("NewExternalPort", outside.to_string()),
                ("NewLeaseDuration", life.to_string()),
            ] {
                arguments = with(&arguments, name, &value);
            }
            let _ = bed.call(&address(host), 2, action, arguments);
        }
        Step::Delete { host, outside } => {
            let key = with(
                &entry().key.to_arguments(),
                "NewExternalPort",
                &outside.to_string(),
            );
            let _ = bed.call(&address(host), 2, "DeletePortMapping", key);
        }
        Step::Pass { seconds } => bed.pass(Duration::from_secs(seconds)),
        Step::Refuse(refuses) => bed.refuses = refuses,
    }
}

fn address(host: u8) -> String {
    format!("192.168.1.{host}")
}

const fn actor(step: &Step) -> Option<u8> {
    match step {
        Step::NatPmp { host, .. }
        | Step::Pcp { host, .. }
        | Step::Add { host, .. }
        | Step::Delete { host, .. } => Some(*host),
        Step::Pass { .. } | Step::Refuse(_) => None,
    }
}

/// Outside ports, and whose they are.
fn owners(bed: &Bed) -> BTreeMap<u16, (SocketAddr, Origin)> {
    let open = bed.open().into_iter();
    open.map(|(port, inside, origin)| (port, (inside, origin)))
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn the_kernel_holds_what_was_granted(steps in steps()) {
        let mut bed = Bed::new();
        for step in &steps {
            let before = owners(&bed);
            take(&mut bed, step);
            bed.check();
            let after = owners(&bed);
            prop_assert_eq!(after.len(), bed.open().len(), "two leases have one port");
            let Some(host) = actor(step) else { continue };
            for (port, (inside, origin)) in &before {
                if inside.ip().to_string() != address(host) {
                    prop_assert_eq!(after.get(port), Some(&(*inside, *origin)), "{:?}", step);
                }
            }
        }
    }
}
