//! The machine that classifies our NAT and carries plans out.

mod attempt;
mod filters;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use postern_wire::stun::ChangeRequest;
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;

use self::attempt::Attempt;
use self::filters::Filters;
use super::budget::{ATTEMPT_PAUSE, MAX_SAMPLES, PROBES_PER_SECOND};
use super::classify::{Classifier, Sample};
use super::nat::NatReport;
use super::plan::Plan;
use super::{Technique, Techniques};

/// Sockets for samples: enough for a range within a tenth, and with the main socket's own
/// samples at [`MAX_STUN_SERVERS`](crate::ice::MAX_STUN_SERVERS) servers no more than
/// [`MAX_SAMPLES`].
const SAMPLE_SOCKETS: usize = MAX_SAMPLES - 8;
/// Sockets for samples where the main socket's port was preserved: they confirm it.
const CONFIRMING_SOCKETS: usize = 3;
/// Sockets refused by the user's budget are asked for again after this.
const BUSY_PAUSE: Duration = Duration::from_secs(2);
/// STUN servers that have not answered the main socket this long after the first did are left
/// out.
const PATIENCE: Duration = Duration::from_millis(500);
/// Attempts that are remembered.
const MAX_TRIED: usize = 16;

/// What peers tell each other, sealed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Message {
    /// What the sender's NAT does.
    Nat(NatReport),
    /// Where the sender has just opened a mapping.
    Prediction(Prediction),
    /// The sender knows the receiver's credentials, and opens its mappings. For the agent.
    Began,
}

/// Ports of which one is a mapping towards the receiver: `first`, and `count` - 1 more,
/// `step` apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Prediction {
    /// The likeliest.
    pub first: u16,
    /// From one to the next.
    pub step: i16,
    /// How many, 1 to 64.
    pub count: u16,
}

/// What the machine wants done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Open so many sockets on the address of `base`, each on a port of its own, and call
    /// [`Puncher::on_sockets`]. With none it is a mere request to begin.
    OpenSockets {
        /// The main socket's address.
        base: SocketAddr,
        /// How many; perhaps none.
        count: usize,
        /// For an attempt, which needs the host's permission
        /// ([`HostBudget`](super::HostBudget)); otherwise for samples.
        attempt: bool,
    },
    /// Close these sockets.
    CloseSockets(Vec<SocketAddr>),
    /// The attempt is over: others may begin.
    AttemptEnded,
    /// Ask a STUN server from this socket, and call [`Puncher::on_sample`], or
    /// [`Puncher::on_elsewhere`] if its answer is to come from elsewhere.
    Sample {
        /// From where.
        local: SocketAddr,
        /// Whom.
        server: SocketAddr,
        /// From where else the server is to answer (RFC 5780 section 4.4).
        change: Option<ChangeRequest>,
    },
    /// Send a check.
    Probe {
        /// From where.
        local: SocketAddr,
        /// Where to.
        remote: SocketAddr,
        /// The time to live, where it is to open a mapping and not to arrive.
        ttl: Option<u8>,
    },
    /// Tell the peer.
    Tell(Message),
}

/// An attempt that is over.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Tried {
    /// What was tried.
    pub technique: Technique,
    /// Whether a path came of it.
    pub succeeded: bool,
    /// Datagrams sent by this side.
    pub probes: u32,
    /// Sockets opened by this side.
    pub sockets: u32,
    /// How long it took.
    pub elapsed: Duration,
    /// How likely it was to succeed, 0 to 1.
    pub probability: f64,
}

/// Classifies the NAT in front of one base, and punches holes through it.
#[derive(Debug)]
pub struct Puncher {
    rng: ChaCha20Rng,
    disabled: Techniques,
    base: Option<SocketAddr>,
    server: Option<SocketAddr>,
    gathering: bool,
    classifier: Classifier,
    sampling: Sampling,
    filters: Filters,
    local: Option<NatReport>,
    remote: Option<NatReport>,
    prediction: Option<Prediction>,
    /// When the peer's credentials came.
    authenticated: Option<Instant>,
    direct: bool,
    /// No attempt before this.
    not_before: Option<Instant>,
    attempt: Option<Attempt>,
    tried: Vec<Tried>,
    actions: VecDeque<Action>,
    /// What the next sockets are for.
    expected: VecDeque<Expected>,
    /// Sockets that are open.
    sockets: BTreeSet<SocketAddr>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Expected {
    Samples,
    Attempt,
    Prediction,
    /// They were for a session that is over.
    Nothing,
}

/// The progress of classification.
#[derive(Debug, Default)]
struct Sampling {
    begun: bool,
    queue: VecDeque<SocketAddr>,
    next: Option<Instant>,
    waiting: BTreeMap<SocketAddr, Instant>,
    sockets: Vec<SocketAddr>,
    enlarged: bool,
    /// Sockets have been asked for and are not there yet.
    pending: bool,
    /// Servers that have not answered by then are not waited for.
    patience: Option<Instant>,
    impatient: bool,
}

/// What classification knows about, from outside.
impl Puncher {
    /// A machine that has nothing to do yet, and leaves out what is `disabled`.
    #[must_use]
    pub fn new(seed: [u8; 32], disabled: Techniques) -> Self {
        Self {
            rng: ChaCha20Rng::from_seed(seed),
            disabled,
            base: None,
            server: None,
            gathering: true,
            classifier: Classifier::default(),
            sampling: Sampling::default(),
            filters: Filters::default(),
            local: None,
            remote: None,
            prediction: None,
            authenticated: None,
            direct: false,
            not_before: None,
            attempt: None,
            tried: Vec::new(),
            actions: VecDeque::new(),
            expected: VecDeque::new(),
            sockets: BTreeSet::new(),
        }
    }

    /// A STUN server saw a socket of the host. The first IPv4 one is the base; the others
    /// are of no interest.
    pub fn on_mapped(&mut self, now: Instant, sample: Sample) {
        if !sample.local.is_ipv4() || self.local.is_some() {
            return;
        }
        let base = *self.base.get_or_insert(sample.local);
        let server = *self.server.get_or_insert(sample.server);
        if base != sample.local {
            return;
        }
        self.classifier.add(sample);
        if !self.sampling.begun && sample.server == server {
            self.sampling.begun = true;
            self.sampling.patience = now.checked_add(PATIENCE);
            if sample.mapped != sample.local {
                let preserved = sample.mapped.port() == sample.local.port();
                self.ask_for_samples(if preserved {
                    CONFIRMING_SOCKETS
                } else {
                    SAMPLE_SOCKETS
                });
            }
        }
        self.conclude();
    }

    /// Whether answers of STUN servers to the base are still to come.
    pub fn set_gathering(&mut self, gathering: bool) {
        self.gathering = gathering;
        self.conclude();
    }

    /// The sockets that were asked for; `None` if the host does not allow them now.
    pub fn on_sockets(&mut self, now: Instant, sockets: Option<Vec<SocketAddr>>) {
        let Some(expected) = self.expected.pop_front() else {
            return;
        };
        let refused = sockets.is_none();
        let sockets = sockets.unwrap_or_default();
        self.sockets.extend(&sockets);
        match expected {
            Expected::Samples => {
                self.sampling.pending = false;
                self.sampling.sockets.extend(&sockets);
                self.sampling.queue.extend(sockets);
                self.sampling.next.get_or_insert(now);
            }
            Expected::Attempt if refused => {
                self.attempt = None;
                self.not_before = now.checked_add(BUSY_PAUSE);
            }
            Expected::Attempt => self.begin_attempt(now, sockets),
            Expected::Prediction => self.predict_from(now, &sockets),
            Expected::Nothing => self.close(|socket| sockets.contains(&socket)),
        }
        self.handle_timeout(now);
    }

    /// What a STUN server saw of a socket that was opened, `None` if it did not answer; and the other
    /// address that it has (OTHER-ADDRESS, RFC 5780 section 7.4), if any.
    pub fn on_sample(
        &mut self,
        now: Instant,
        local: SocketAddr,
        mapped: Option<SocketAddr>,
        other: Option<SocketAddr>,
    ) {
        if let Some(sent) = self.sampling.waiting.remove(&local) {
            if let Some(other) = other {
                self.ask_elsewhere(local, other);
            }
            let sample = mapped.zip(self.server);
            if let Some((mapped, server)) = sample {
                self.classifier.add(Sample {
                    local,
                    server,
                    mapped,
                    sent,
                });
            }
            self.conclude();
        } else if !self.on_confirmed(local, mapped.is_some()) {
            self.on_bracket(now, local, mapped);
        }
    }

    /// The peer's credentials are known.
    pub fn on_credentials(&mut self, now: Instant) {
        self.authenticated.get_or_insert(now);
    }

    /// The peer has told something.
    pub fn on_message(&mut self, now: Instant, message: Message) {
        match message {
            Message::Nat(nat) => self.remote = Some(nat),
            Message::Prediction(prediction) => self.follow(now, prediction),
            Message::Began => {}
        }
        self.handle_timeout(now);
    }

    /// A direct pair is valid: whatever runs ends. It has succeeded only if the pair is its own
    /// (`punched`): plain checks go on while an attempt runs, and may be the first to find one.
    pub fn on_direct(&mut self, now: Instant, punched: bool) {
        self.direct = true;
        self.end_attempt(now, punched);
    }

    /// A direct pair is selected: sockets other than its own are closed.
    pub fn on_selected(&mut self, local: SocketAddr) {
        let filters = self.filters;
        self.close(|socket| socket != local && !filters.uses(socket));
    }

    /// No direct pair is left.
    pub fn on_lost(&mut self, now: Instant) {
        if self.direct {
            self.direct = false;
            self.authenticated = Some(now);
        }
    }

    /// Another session with the peer (RFC 8445 section 9): both NATs are looked at anew. Sockets in
    /// use stay open; the pause between attempts and what has been tried stay as well.
    pub fn restart(&mut self, now: Instant, in_use: &[SocketAddr]) {
        let (used, unused): (BTreeSet<_>, BTreeSet<_>) =
            self.sockets.iter().partition(|s| in_use.contains(s));
        self.sockets = unused;
        self.end_attempt(now, false);
        self.close(|_| true);
        *self = Self {
            rng: self.rng.clone(),
            not_before: self.not_before,
            tried: std::mem::take(&mut self.tried),
            actions: std::mem::take(&mut self.actions),
            expected: self.expected.iter().map(|_| Expected::Nothing).collect(),
            sockets: used,
            ..Self::new([0; 32], self.disabled)
        };
    }

    /// What our NAT does, once it is known.
    #[must_use]
    pub const fn local(&self) -> Option<&NatReport> {
        self.local.as_ref()
    }

    /// What the peer's NAT does, once it has told.
    #[must_use]
    pub const fn remote(&self) -> Option<&NatReport> {
        self.remote.as_ref()
    }

    /// Attempts that are over, the oldest first.
    #[must_use]
    pub fn tried(&self) -> &[Tried] {
        &self.tried
    }

    /// What the two NATs allow beyond plain checks, once both are known; whether it is switched
    /// off or not.
    #[must_use]
    pub fn plan(&self) -> Option<Plan> {
        Plan::new(self.local.as_ref()?, self.remote.as_ref()?)
    }

    /// The attempt that runs: what is tried, with how many datagrams so far and what chance.
    #[must_use]
    pub fn running(&self, now: Instant) -> Option<Tried> {
        Some(self.attempt.as_ref()?.outcome(now, false))
    }

    /// Whether an attempt runs, or the first one is to come.
    #[must_use]
    pub fn is_pending(&self) -> bool {
        self.attempt.is_some() || self.tried.is_empty() && self.start_at().is_some()
    }

    /// The technique of the attempt that runs.
    #[must_use]
    pub fn trying(&self) -> Option<Technique> {
        Some(self.attempt.as_ref()?.plan.technique)
    }

    /// What a path is called that is met now: by the attempt that runs, else by the last one that
    /// succeeded. Before the first one the peer may have begun its own, which is the same.
    #[must_use]
    pub fn technique(&self) -> Option<Technique> {
        let last = self.tried.last().map(|tried| tried.technique);
        let planned = || self.plan().map(|plan| plan.technique);
        self.trying().or(last).or_else(planned)
    }

    /// Whether the last attempt is over and has succeeded.
    #[must_use]
    pub fn has_succeeded(&self) -> bool {
        self.attempt.is_none() && self.tried.last().is_some_and(|tried| tried.succeeded)
    }

    /// Probes sent and sockets opened in all attempts, the one that runs included.
    #[must_use]
    pub fn spent(&self) -> (u32, u32) {
        let running = self.attempt.as_ref().map(|a| (a.sent(), a.opened()));
        let over = self.tried.iter().map(|tried| (tried.probes, tried.sockets));
        over.chain(running).fold((0, 0), |sum, more| {
            (sum.0.saturating_add(more.0), sum.1.saturating_add(more.1))
        })
    }

    /// Whether classification is over, or has nothing to go on.
    #[must_use]
    pub fn is_classified(&self) -> bool {
        self.local.is_some() || !self.gathering && !self.sampling.begun
    }

    /// Whether an attempt may be needed and none is over.
    #[must_use]
    pub fn is_at_work(&self) -> bool {
        let hopeless = self.plan().is_some_and(|plan| self.is_off(&plan));
        !self.direct && self.base.is_some() && self.tried.is_empty() && !hopeless
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.sampling.patience.is_some_and(|end| end <= now) {
            self.sampling.patience = None;
            self.sampling.impatient = true;
        }
        self.send_samples(now);
        self.conclude();
        self.start_attempt(now);
        self.run_attempt(now);
    }

    /// The next thing to do.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// When to call [`handle_timeout`](Self::handle_timeout).
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let sample = self
            .sampling
            .next
            .filter(|_| !self.sampling.queue.is_empty());
        let attempt = self.attempt.as_ref().and_then(Attempt::timeout);
        let patience = self.sampling.patience.filter(|_| self.local.is_none());
        [sample, attempt, self.start_at(), patience]
            .into_iter()
            .flatten()
            .min()
    }
}

/// Classification.
impl Puncher {
    fn ask_for_samples(&mut self, count: usize) {
        let Some(base) = self.base else { return };
        self.sampling.pending = true;
        self.expected.push_back(Expected::Samples);
        self.actions.push_back(Action::OpenSockets {
            base,
            count,
            attempt: false,
        });
    }

    fn send_samples(&mut self, now: Instant) {
        let Some(server) = self.server else { return };
        while let Some(next) = self.sampling.next
            && next <= now
            && let Some(local) = self.sampling.queue.pop_front()
        {
            self.sampling.next = next.max(now).checked_add(pace());
            self.sampling.waiting.insert(local, now);
            self.actions.push_back(Action::Sample {
                local,
                server,
                change: None,
            });
        }
    }

    /// Once all samples are in: the report, or more of them.
    fn conclude(&mut self) {
        let sampling = &self.sampling;
        let busy = sampling.pending || !sampling.queue.is_empty() || !sampling.waiting.is_empty();
        let gathering = self.gathering && !sampling.impatient;
        if self.local.is_some() || gathering || !sampling.begun || busy {
            return;
        }
        let Some(report) = self.classifier.report() else {
            return;
        };
        let preserved = report.allocation == super::Allocation::Preserving;
        let few = self.sampling.sockets.len() == CONFIRMING_SOCKETS;
        if few && !preserved && !self.sampling.enlarged {
            self.sampling.enlarged = true;
            return self.ask_for_samples(SAMPLE_SOCKETS.saturating_sub(CONFIRMING_SOCKETS));
        }
        let report = NatReport {
            filtering: self.filters.verdict(),
            ..report
        };
        self.local = Some(report);
        self.actions.push_back(Action::Tell(Message::Nat(report)));
        let sockets = std::mem::take(&mut self.sampling.sockets);
        let filters = self.filters;
        self.close(|socket| sockets.contains(&socket) && !filters.uses(socket));
    }

    fn close(&mut self, which: impl Fn(SocketAddr) -> bool) {
        let closed: Vec<_> = self.sockets.iter().copied().filter(|s| which(*s)).collect();
        self.sockets.retain(|socket| !closed.contains(socket));
        if !closed.is_empty() {
            self.actions.push_back(Action::CloseSockets(closed));
        }
    }
}

/// Beginning and ending.
impl Puncher {
    fn start_at(&self) -> Option<Instant> {
        let plan = self.plan().filter(|plan| !self.is_off(plan))?;
        let grace = plan.grace;
        let idle = self.attempt.is_none() && !self.direct;
        let start = self.authenticated?.checked_add(grace)?;
        idle.then(|| start.max(self.not_before.unwrap_or(start)))
    }

    fn is_off(&self, plan: &Plan) -> bool {
        self.disabled.contains(plan.technique)
    }

    fn start_attempt(&mut self, now: Instant) {
        let due = self.start_at().is_some_and(|start| start <= now);
        let ends = self.remote.map(|nat| nat.mapped).zip(self.base);
        let Some(((peer, base), plan)) = ends.zip(self.plan()).filter(|_| due) else {
            return;
        };
        let primer = !self.disabled.contains(Technique::Primer);
        let ends = (base, peer);
        self.attempt = Some(Attempt::new(now, plan, ends, primer, &mut self.rng));
        self.expected.push_back(Expected::Attempt);
        self.actions.push_back(Action::OpenSockets {
            base,
            count: usize::try_from(plan.sockets()).unwrap_or(0),
            attempt: true,
        });
    }

    fn end_attempt(&mut self, now: Instant, succeeded: bool) {
        let Some(attempt) = self.attempt.take() else {
            return;
        };
        self.not_before = now.checked_add(ATTEMPT_PAUSE);
        if self.tried.len() >= MAX_TRIED {
            self.tried.remove(0);
        }
        self.tried.push(attempt.outcome(now, succeeded));
        self.actions.push_back(Action::AttemptEnded);
        if !succeeded {
            self.close(|_| true);
        }
    }
}

/// The time between two datagrams.
fn pace() -> Duration {
    let second = Duration::from_secs(1);
    second.checked_div(PROBES_PER_SECOND).unwrap_or(second)
}
