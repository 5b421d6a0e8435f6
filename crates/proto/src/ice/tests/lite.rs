//! A lite peer (RFC 8445 section 2.5): it answers, and never asks.
#![allow(
    clippy::arithmetic_side_effects,
    reason = "a test may panic on overflow"
)]

use std::time::Instant;

use postern_wire::stun::{
    AttributeType, Builder, Class, ErrorCode, Message, Method, XorMappedAddress,
};

use super::super::*;
use super::net::at;
use super::{epoch, ms, secs};
use crate::{Datagram, Transmit};

const US: &str = "45.45.1.1:1000";
const LITE: &str = "45.45.2.2:2000";
const PWD: &str = "abcdefghijklmnopqrstuv";

struct Lite {
    now: Instant,
    agent: Agent,
    nominated: u32,
    checks: u32,
    /// Says 487 to everything.
    quarrels: bool,
}

impl Lite {
    fn new(role: Role) -> Self {
        let now = epoch();
        let mut agent = Agent::new(now, [7; 32], role, Config::default());
        agent.add_host(now, at(US));
        agent.set_peer_lite(now);
        let line = format!(
            "candidate:1 1 udp 2130706431 {} 2000 typ host",
            at(LITE).ip()
        );
        agent.add_remote_candidate(now, line.parse().unwrap());
        let credentials = Credentials {
            ufrag: "lite".into(),
            pwd: PWD.into(),
        };
        agent.set_remote_credentials(now, credentials);
        Self {
            now,
            agent,
            nominated: 0,
            checks: 0,
            quarrels: false,
        }
    }

    fn answer(&mut self, transmit: &Transmit) {
        let request = Message::parse(&transmit.payload).unwrap();
        request.verify_integrity(PWD.as_bytes()).unwrap();
        self.checks += 1;
        self.nominated += u32::from(request.contains(AttributeType::USE_CANDIDATE));
        assert!(request.contains(AttributeType::ICE_CONTROLLING));
        let id = request.transaction_id();
        let response = match self.quarrels {
            false => Builder::new(Class::Success, Method::BINDING, id)
                .attribute(&XorMappedAddress(transmit.local)),
            true => {
                Builder::new(Class::Error, Method::BINDING, id).attribute(&ErrorCode::ROLE_CONFLICT)
            }
        };
        let payload = response
            .message_integrity(PWD.as_bytes())
            .fingerprint()
            .build();
        let datagram = Datagram {
            local: transmit.local,
            remote: transmit.remote,
            payload: &payload,
        };
        self.agent.handle_input(self.now, datagram);
    }

    fn run(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            while let Some(transmit) = self.agent.poll_transmit() {
                self.answer(&transmit);
            }
            match self.agent.poll_timeout().filter(|due| *due <= end) {
                Some(due) => self.now = due.max(self.now),
                None => break self.now = end,
            }
            self.agent.handle_timeout(self.now);
        }
    }
}

#[test]
fn whoever_meets_a_lite_peer_controls_and_nominates() {
    for role in [Role::Controlling, Role::Controlled] {
        let mut lite = Lite::new(role);
        assert_eq!(lite.agent.role(), Role::Controlling);
        lite.run(ms(500));
        assert_eq!(lite.agent.selected().unwrap().remote, at(LITE));
        assert_eq!((lite.checks, lite.nominated), (2, 1));
        lite.run(secs(600));
        assert!(lite.agent.selected().is_some(), "its answers are consent");
        assert_eq!(lite.nominated, 1);
    }
}

#[test]
fn a_lite_peer_that_claims_a_role_conflict_changes_no_role() {
    let mut lite = Lite::new(Role::Controlling);
    lite.quarrels = true;
    lite.run(secs(5));
    assert_eq!(lite.agent.role(), Role::Controlling);
    assert!(lite.checks < 10, "{}", lite.checks);
}
