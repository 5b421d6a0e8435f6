//! Opening, accepting and closing connections: which, when, and how often.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use postern_wire::stun::{Builder, Class, Message, Method, XorMappedAddress};
use rand_core::RngCore;

use super::state::{Attempt, Purpose};
use super::{
    MAX_TCP_HOSTS, MAX_TCP_RENEWALS, MAX_TCP_STUN_SERVERS, MAX_TCP_WAYS, TcpAction, TcpEnds,
    TcpEvent, TcpType,
};
use crate::ice::after;
use crate::ice::agent::Agent;
use crate::ice::candidate::{Candidate, CandidateKind, can_pair, is_usable, unscoped};
use crate::ice::event::Event;
use crate::ice::pair::{PairKey, State};
use crate::ice::transactions;
use crate::stun::{Request, RetransmitPolicy, random_transaction_id};

/// Tries in quick succession: at 60 ms each there and back, two to three seconds of them.
const QUICK_TRIES: u32 = 40;
/// The same where the peer listens already, at an address that may be a stranger's here.
const LISTENING_TRIES: u32 = 2;
/// The pause after a refusal, in microseconds: random, so that two sides do not keep in step, and short.
/// What the other side sends meanwhile finds nobody, while it is met if it is sent at any time
/// during a try. And the NAT of who was refused with ICMP lets it in: after that Linux's
/// takes no SYN of ours for this connection any more. The first pause is none for this reason:
/// two sides that hear of each other through a server often begin one way's time apart.
const JITTER: u64 = 10_000;
/// Added to it when the quick tries are over, and when nobody has said no.
const SLOW: Duration = Duration::from_secs(1);
/// A port that has been refused and has got nowhere after this is joined by another one. NATs that
/// refuse are passed within a second, if at all.
const RENEWAL: Duration = Duration::from_millis(1200);
/// Tries in all: as many as fit into the agent's patience.
const MAX_TRIES: u32 = 80;
/// How long an answer may take on a connection, where nothing is lost.
const ANSWER: Duration = Duration::from_secs(10);

impl Agent {
    /// Adds a port that listens for TCP; connections are opened from it too. It makes an active,
    /// a passive and a simultaneous-open candidate (RFC 6544 section 5.1).
    ///
    /// Unusable addresses, known ones and those beyond
    /// [`MAX_TCP_HOSTS`](super::MAX_TCP_HOSTS) are ignored.
    pub fn add_tcp_host(&mut self, now: Instant, address: SocketAddr) {
        self.tcp.number_from(self.rng.next_u64());
        let candidates = self.tcp.add_host(address, self.config.allow_loopback);
        self.events
            .extend(candidates.into_iter().map(Event::LocalCandidate));
        self.plan_gathering(now);
        self.plan_attempts(now);
        self.work(now);
    }

    /// Asks a STUN server over TCP how our ports are mapped. The connections stay open until a
    /// pair over UDP is selected, because the mappings live as long as they do.
    pub fn add_tcp_stun_server(&mut self, now: Instant, server: SocketAddr) {
        if is_usable(server, self.config.allow_loopback) && self.tcp.add_server(server) {
            self.plan_gathering(now);
            self.work(now);
        }
    }

    /// What to do with connections, until `None`.
    pub fn poll_tcp(&mut self) -> Option<TcpAction> {
        self.tcp.actions.pop_front()
    }

    /// The connection behind the `local` of a path; `None` if that is not TCP.
    pub fn tcp_ends(&self, base: SocketAddr) -> Option<TcpEnds> {
        self.tcp.ends(base)
    }

    /// Takes what happened to a connection. A new one that is wanted gets a base; close it if
    /// there is none.
    pub fn handle_tcp(
        &mut self,
        now: Instant,
        ends: TcpEnds,
        event: TcpEvent,
    ) -> Option<SocketAddr> {
        let base = match event {
            TcpEvent::Connected => self.on_connected(now, ends),
            TcpEvent::Accepted => self.on_accepted(now, ends),
            TcpEvent::Refused => {
                self.plan_renewal(now, ends);
                self.try_again(now, ends, Duration::ZERO);
                None
            }
            TcpEvent::Failed => {
                self.try_again(now, ends, SLOW);
                None
            }
            TcpEvent::Closed => {
                self.on_closed(now, ends);
                None
            }
        };
        self.work(now);
        base
    }

    pub(in crate::ice) fn add_remote_tcp(&mut self, now: Instant, candidate: Candidate) {
        if self.tcp.add_remote(candidate, self.config.allow_loopback) {
            self.plan_attempts(now);
        }
    }

    /// Connections to the peer may be opened soon: UDP goes first, if there is any.
    pub(in crate::ice) fn begin_tcp(&mut self, now: Instant) {
        let udp = self.locals.host_bases().next().is_some();
        let delay = if udp {
            self.config.tcp_delay
        } else {
            Duration::ZERO
        };
        self.tcp.begin = Some(after(now, delay));
        let listening = self.first_try(Purpose::Listening);
        let punch = self.first_try(Purpose::Punch);
        let open: Vec<_> = self.tcp.bases().map(|(_, ends)| ends).collect();
        let idle = self.tcp.attempts.iter_mut().filter(|(_, a)| !a.running);
        for (_, attempt) in idle.filter(|(ends, _)| !open.contains(ends)) {
            match attempt.purpose {
                Purpose::Gather => attempt.due = Some(now),
                Purpose::Listening => attempt.due = listening,
                Purpose::Punch => attempt.due = punch,
            }
            attempt.tries = 0;
        }
        self.plan_attempts(now);
    }

    /// When the first connections may be opened. One to where the peer listens leaves the first
    /// place to one through its NAT, where the two sides have to meet.
    fn first_try(&self, purpose: Purpose) -> Option<Instant> {
        let begin = self.tcp.begin?;
        Some(match purpose {
            Purpose::Listening => after(begin, self.config.ta),
            Purpose::Punch | Purpose::Gather => begin,
        })
    }

    fn plan_gathering(&mut self, now: Instant) {
        let ways = self.tcp.hosts.iter().flat_map(|&local| {
            let servers = self.tcp.servers.iter().copied();
            let asked = servers.filter(move |server| can_pair(local, *server));
            let asked = asked.take(MAX_TCP_STUN_SERVERS);
            asked.map(move |remote| TcpEnds { local, remote })
        });
        let ways: Vec<_> = ways.collect();
        for ends in ways {
            self.plan(now, ends, Purpose::Gather);
        }
    }

    fn plan_attempts(&mut self, now: Instant) {
        if self.tcp.begin.is_none() {
            return;
        }
        let mut ways = Vec::new();
        for local in &self.tcp.hosts {
            let remotes = self.tcp.remotes();
            let dialled = remotes.filter(|r| r.tcp.is_some_and(TcpType::can_be_dialled));
            for remote in dialled.filter(|remote| can_pair(*local, remote.address)) {
                let listens =
                    remote.kind == CandidateKind::Host || remote.tcp == Some(TcpType::Passive);
                let purpose = match listens {
                    true => Purpose::Listening,
                    false => Purpose::Punch,
                };
                ways.push((PairKey::new(*local, remote.address), purpose));
            }
        }
        for (PairKey { local, remote }, purpose) in ways {
            let due = self.first_try(purpose).map_or(now, |first| first.max(now));
            self.plan(due, TcpEnds { local, remote }, purpose);
        }
    }

    fn plan(&mut self, due: Instant, ends: TcpEnds, purpose: Purpose) {
        if let Some(base) = self.tcp.base_of(ends) {
            let known = !self.list.keys_from(base).is_empty();
            if !known && purpose != Purpose::Gather {
                self.check_connection(due, base); // of a session before
            }
            return;
        }
        if self.tcp.attempts.len() >= MAX_TCP_WAYS {
            return;
        }
        let attempt = Attempt {
            purpose,
            tries: 0,
            due: Some(due),
            running: false,
        };
        self.tcp.attempts.entry(ends).or_insert(attempt);
    }

    /// Begins the attempt that is due, and closes what is not wanted any more.
    pub(in crate::ice) fn run_tcp(&mut self, now: Instant) {
        self.close_strangers(now);
        self.close_failed(now);
        self.renew(now);
        if self.tcp.paced.is_some_and(|at| at > now) || !self.tcp.has_room() {
            return;
        }
        let Some((ends, _)) = self.next_attempt().filter(|(_, due)| *due <= now) else {
            return;
        };
        if let Some(attempt) = self.tcp.attempts.get_mut(&ends) {
            attempt.due = None;
            attempt.running = true;
            attempt.tries = attempt.tries.saturating_add(1);
            self.tcp.paced = Some(after(now, self.config.ta));
            let framed = attempt.purpose != Purpose::Gather;
            self.tcp
                .actions
                .push_back(TcpAction::Connect { ends, framed });
            if framed {
                self.tally_connect(now);
            }
        }
    }

    pub(in crate::ice) fn tcp_timeout(&self) -> Option<Instant> {
        let attempt = self.next_attempt().filter(|_| self.tcp.has_room());
        let attempt = attempt.map(|(_, due)| self.tcp.paced.map_or(due, |paced| due.max(paced)));
        let stranger = self.tcp.stranger().map(|(_, until)| until);
        let renewal = self.tcp.renewal.map(|(_, due)| due);
        let others = stranger.into_iter().chain(renewal);
        attempt.into_iter().chain(others).min()
    }

    /// The attempt whose time comes first: of several, one through a NAT, since the two sides
    /// have to meet there.
    fn next_attempt(&self) -> Option<(TcpEnds, Instant)> {
        if self.is_settled() {
            return None;
        }
        let waiting = self.tcp.attempts.iter();
        let waiting = waiting.filter_map(|(ends, a)| Some((*ends, a.due?, a.purpose)));
        let next = waiting.min_by_key(|(_, due, purpose)| (*due, *purpose != Purpose::Punch));
        next.map(|(ends, due, _)| (ends, due))
    }

    fn on_connected(&mut self, now: Instant, ends: TcpEnds) -> Option<SocketAddr> {
        let attempt = self.tcp.attempts.get_mut(&ends)?;
        attempt.running = false;
        let purpose = attempt.purpose;
        if self.failed || self.is_settled() {
            return None;
        }
        let base = self.tcp.open(now, ends, false)?;
        match purpose {
            Purpose::Gather => self.ask_mapping(now, base, ends.remote),
            Purpose::Listening | Purpose::Punch => self.check_connection(now, base),
        }
        Some(base)
    }

    /// A connection that the peer opened. Which one it is, and whether it is the peer, shows
    /// with its first check.
    fn on_accepted(&mut self, now: Instant, ends: TcpEnds) -> Option<SocketAddr> {
        if self.failed || self.is_settled() || self.tcp.base_of(ends).is_some() {
            return None;
        }
        if !self.tcp.has_room() {
            let (oldest, _) = self.tcp.stranger()?;
            self.close(now, oldest);
        }
        self.tcp.open(now, ends, true)
    }

    /// The connection is a pair: it is checked at once.
    fn check_connection(&mut self, now: Instant, base: SocketAddr) {
        let ends = self.tcp.ends(base);
        let remote = ends.and_then(|ends| self.tcp.remote(ends.remote));
        let (Some(candidate), Some(remote)) = (self.tcp.base(base), remote) else {
            return;
        };
        let key = PairKey::new(base, remote.address);
        if self.list.add_seen(candidate, remote) {
            self.trigger(now, key);
        }
    }

    fn try_again(&mut self, now: Instant, ends: TcpEnds, pause: Duration) {
        let jitter = self.jitter();
        let open = self.tcp.base_of(ends).is_some();
        let Some(attempt) = self.tcp.attempts.get_mut(&ends) else {
            return;
        };
        attempt.running = false;
        let most = match attempt.purpose {
            Purpose::Punch => MAX_TRIES,
            Purpose::Listening | Purpose::Gather => LISTENING_TRIES,
        };
        let again = attempt.tries < most && !open;
        if again && pause.is_zero() && attempt.tries == 1 {
            attempt.due = Some(now);
            self.tcp.paced = None;
            return;
        }
        let slow = attempt.tries >= QUICK_TRIES;
        let pause = if slow { SLOW } else { pause };
        attempt.due = again.then(|| after(now, pause.saturating_add(jitter)));
    }

    /// A try was refused on the way to the peer: another port may be needed.
    fn plan_renewal(&mut self, now: Instant, ends: TcpEnds) {
        let attempt = self.tcp.attempts.get(&ends);
        if attempt.is_some_and(|attempt| attempt.purpose == Purpose::Punch)
            && self.tcp.renewals < MAX_TCP_RENEWALS
        {
            let due = after(now, RENEWAL);
            self.tcp.renewal.get_or_insert((ends.local, due));
        }
    }

    fn renew(&mut self, now: Instant) {
        let due = self.tcp.renewal.take_if(|(_, due)| *due <= now);
        let room = self.tcp.hosts.len() < MAX_TCP_HOSTS;
        let direct = self.list.valid().any(|pair| !pair.is_relayed());
        if let Some((local, _)) = due.filter(|_| room && !direct && !self.failed) {
            self.tcp.renewals = self.tcp.renewals.saturating_add(1);
            self.tcp.actions.push_back(TcpAction::Renew(local));
        }
    }

    fn jitter(&mut self) -> Duration {
        Duration::from_micros(self.rng.next_u64().checked_rem(JITTER).unwrap_or(0))
    }

    fn on_closed(&mut self, now: Instant, ends: TcpEnds) {
        if let Some(base) = self.tcp.base_of(ends) {
            self.tcp.remove(base);
            self.drop_pairs_of(now, base);
        }
        let mut pause = SLOW;
        let answered = self.tcp.has_answered(ends);
        let attempt = self.tcp.attempts.get_mut(&ends);
        let gathered = attempt.filter(|a| answered && a.purpose == Purpose::Gather);
        if let Some(attempt) = gathered {
            // A server that has answered need not keep the connection, but the mapping is to live:
            // it does for a while after the end, and the next one may show that it has changed.
            attempt.tries = 0;
            pause = self.config.binding_refresh;
        }
        self.try_again(now, ends, pause);
    }

    fn close(&mut self, now: Instant, base: SocketAddr) {
        if let Some(ends) = self.tcp.remove(base) {
            self.tcp.actions.push_back(TcpAction::Close(ends));
            self.drop_pairs_of(now, base);
        }
    }

    /// A pair over UDP has been selected: attempts end, and connections after a while, so that data
    /// has time to move.
    pub(in crate::ice) fn retire_tcp(&mut self, now: Instant) {
        self.tcp.retire(now);
        self.tcp.renewal = None;
        for (ends, attempt) in &mut self.tcp.attempts {
            attempt.due = None;
            if std::mem::take(&mut attempt.running) {
                self.tcp.actions.push_back(TcpAction::Close(*ends));
            }
        }
    }

    /// Ends all attempts and connections at once.
    pub(in crate::ice) fn close_tcp(&mut self, now: Instant) {
        self.retire_tcp(now);
        let open: Vec<_> = self.tcp.bases().collect();
        for (base, ends) in open {
            self.tcp.remove(base);
            self.tcp.actions.push_back(TcpAction::Close(ends));
        }
    }

    /// Another session: the peer's candidates come anew, and ours are told again. Connections in use
    /// stay open.
    pub(in crate::ice) fn restart_tcp(&mut self, now: Instant, in_use: &[SocketAddr]) {
        let attempts = std::mem::take(&mut self.tcp.attempts);
        for (ends, _) in attempts.into_iter().filter(|(_, attempt)| attempt.running) {
            self.tcp.actions.push_back(TcpAction::Close(ends));
        }
        let open: Vec<_> = self.tcp.bases().collect();
        for (base, ends) in open.into_iter().filter(|(base, _)| !in_use.contains(base)) {
            self.tcp.remove(base);
            self.tcp.actions.push_back(TcpAction::Close(ends));
        }
        let candidates = self.tcp.restart();
        self.events
            .extend(candidates.into_iter().map(Event::LocalCandidate));
        self.plan_gathering(now);
    }

    fn close_strangers(&mut self, now: Instant) {
        while let Some((base, until)) = self.tcp.stranger()
            && until <= now
        {
            self.close(now, base);
        }
    }

    /// Closes connections whose check has failed: somebody else answers there.
    fn close_failed(&mut self, now: Instant) {
        let failed = |base: &SocketAddr| {
            let mut pairs = self.list.iter().filter(|pair| pair.key.local == *base);
            pairs.any(|pair| pair.state == State::Failed)
        };
        let bases = self.tcp.bases().map(|(base, _)| base);
        let failed: Vec<_> = bases.filter(failed).collect();
        for base in failed {
            self.close(now, base);
        }
    }

    fn ask_mapping(&mut self, now: Instant, base: SocketAddr, server: SocketAddr) {
        let id = random_transaction_id(&mut self.rng);
        let request = Request {
            local: base,
            remote: server,
            id,
            payload: Builder::new(Class::Request, Method::BINDING, id).build(),
            policy: once(),
        };
        let purpose = transactions::Purpose::Gather { base, server };
        self.transactions.start(now, purpose, request);
    }

    /// A STUN server's answer over TCP.
    pub(in crate::ice) fn on_tcp_binding(&mut self, base: SocketAddr, message: &Message<'_>) {
        let (Class::Success, Ok(Some(XorMappedAddress(mapped)))) = (message.class(), message.get())
        else {
            return;
        };
        let mapped = unscoped(mapped);
        if is_usable(mapped, self.config.allow_loopback)
            && let Some(candidate) = self.tcp.map(base, mapped)
        {
            self.events.push_back(Event::LocalCandidate(candidate));
        }
    }
}

/// A request over TCP is sent once (RFC 8489 section 6.2.2).
pub(in crate::ice) fn once() -> RetransmitPolicy {
    RetransmitPolicy {
        initial_rto: ANSWER,
        rc: 1,
        rm: 1,
    }
}
