//! What holds whatever anybody does.

use proptest::prelude::*;

use super::super::*;
use super::net::at;
use super::{epoch, ms};
use crate::Datagram;

/// Anything that can be done to an agent.
#[derive(Debug, Clone)]
enum Action {
    Wait(u64),
    Timeout,
    Host(u8),
    Relayed(u8),
    EndOfRelayed(u8),
    Server(u8),
    EndOfHosts,
    Remote(u8, u32),
    Credentials,
    /// The other agent's next datagrams arrive, from these last bytes of an address.
    Deliver(u8, u8),
    /// One of them arrives with a byte changed.
    Damage(u8, usize, u8),
    Garbage(Vec<u8>),
}

fn action() -> impl Strategy<Value = Action> {
    prop_oneof![
        (0..3000_u64).prop_map(Action::Wait),
        Just(Action::Timeout),
        any::<u8>().prop_map(Action::Host),
        any::<u8>().prop_map(Action::Server),
        (0..8_u8).prop_map(Action::Relayed),
        (0..8_u8).prop_map(Action::EndOfRelayed),
        Just(Action::EndOfHosts),
        (any::<u8>(), any::<u32>()).prop_map(|(n, p)| Action::Remote(n, p)),
        Just(Action::Credentials),
        (0..4_u8, any::<u8>()).prop_map(|(to, from)| Action::Deliver(to, from)),
        (any::<u8>(), 0..120_usize, any::<u8>()).prop_map(|(f, n, x)| Action::Damage(f, n, x)),
        prop::collection::vec(any::<u8>(), 0..80).prop_map(Action::Garbage),
    ]
}

fn address(net: u8, last: u8) -> std::net::SocketAddr {
    ([45, 45, net, last], 1000).into()
}

struct World {
    now: Instant,
    agent: Agent,
    other: Agent,
    tapped: Vec<Vec<u8>>,
}

impl World {
    fn new() -> Self {
        let now = epoch();
        let agent = |seed, role| Agent::new(now, [seed; 32], role, Config::default());
        let mut world = Self {
            now,
            agent: agent(1, Role::Controlling),
            other: agent(2, Role::Controlled),
            tapped: Vec::new(),
        };
        let credentials = world.agent.local_credentials().clone();
        world.other.set_remote_credentials(now, credentials);
        world.other.add_host(now, at("45.45.9.9:9"));
        world
    }

    fn act(&mut self, action: Action) {
        let (now, agent) = (self.now, &mut self.agent);
        match action {
            Action::Wait(time) => self.now = now.checked_add(ms(time)).unwrap(),
            Action::Timeout => agent.handle_timeout(now),
            Action::Host(n) => agent.add_host(now, address(1, n)),
            Action::Relayed(n) => {
                agent.add_relayed(now, at("45.45.8.8:8"), address(1, n), address(3, n));
            }
            Action::EndOfRelayed(n) => agent.remove_relayed(now, address(1, n)),
            Action::Server(n) => agent.add_stun_server(now, address(3, n)),
            Action::EndOfHosts => agent.end_of_hosts(now),
            Action::Remote(n, priority) => agent.add_remote_candidate(now, candidate(n, priority)),
            Action::Credentials => {
                let credentials = self.other.local_credentials().clone();
                agent.set_remote_credentials(now, credentials);
            }
            Action::Deliver(to, from) => self.deliver(to, from),
            Action::Damage(from, index, change) => self.damage(from, index, change),
            Action::Garbage(bytes) => self.hand(1, 1, &bytes),
        }
    }

    fn deliver(&mut self, to: u8, from: u8) {
        self.other.add_remote_candidate(self.now, candidate(to, 5));
        self.other.handle_timeout(self.now);
        while let Some(transmit) = self.other.poll_transmit() {
            self.hand(to, from, &transmit.payload);
            self.tapped.push(transmit.payload);
        }
    }

    fn damage(&mut self, from: u8, index: usize, change: u8) {
        if let Some(mut bytes) = self.tapped.last().cloned() {
            if let Some(byte) = bytes.get_mut(index) {
                *byte ^= change;
            }
            self.hand(1, from, &bytes);
        }
    }

    fn hand(&mut self, to: u8, from: u8, payload: &[u8]) {
        let datagram = Datagram {
            local: address(1, to),
            remote: address(2, from),
            payload,
        };
        self.agent.handle_input(self.now, datagram);
    }

    /// The bounds hold, and time-outs lie ahead once they have been handled.
    fn check(&mut self) {
        let remotes = MAX_REMOTE_CANDIDATES + MAX_REMOTE_PEER_REFLEXIVE;
        assert!(self.agent.list.iter().count() <= MAX_PAIRS);
        assert!(self.agent.remotes.iter().count() <= remotes);
        assert!(self.agent.locals.bases().count() <= MAX_HOSTS + MAX_RELAYED);
        let consents = self.agent.consents.keys();
        let known = |key: &&_| self.agent.list.is_valid(**key);
        assert!(consents.clone().all(|key| known(&key)), "{consents:?}");
        let selected = self.agent.selected_on(1);
        assert!(selected.is_none_or(|key| self.agent.list.is_valid(key)));
        assert!(self.agent.gatherer.servers() <= MAX_STUN_SERVERS);
        assert!(self.agent.early.len() <= MAX_EARLY_CHECKS);
        self.agent.handle_timeout(self.now);
        let next = self.agent.poll_timeout();
        assert!(next.is_none_or(|next| next > self.now), "a busy loop");
        while let Some(transmit) = self.agent.poll_transmit() {
            self.answer(transmit);
        }
        while self.agent.poll_event().is_some() {}
    }

    /// The other agent hears some of what is sent, and its answers come back.
    fn answer(&mut self, transmit: crate::Transmit) {
        let datagram = Datagram {
            local: at("45.45.9.9:9"),
            remote: transmit.local,
            payload: &transmit.payload,
        };
        self.other.handle_input(self.now, datagram);
        self.tapped.push(transmit.payload);
    }
}

fn candidate(last: u8, priority: u32) -> Candidate {
    Candidate {
        foundation: format!("{}", last % 16),
        component: 1,
        priority,
        address: address(2, last),
        kind: match last % 5 {
            0 => CandidateKind::Relayed,
            1 => CandidateKind::ServerReflexive,
            _ => CandidateKind::Host,
        },
        tcp: None,
        related: None,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn no_sequence_of_actions_breaks_a_bound_or_makes_a_busy_loop(
        actions in prop::collection::vec(action(), 1..200),
    ) {
        let mut world = World::new();
        for action in actions {
            world.act(action);
            world.check();
        }
    }
}
