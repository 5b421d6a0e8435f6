//! What each side's network does, what was tried, and why the path is what it is: facts, for
//! whoever puts them into words.

use std::time::{Duration, Instant};

use super::connector::{Connector, Stage};
use super::tried::Trouble;
use super::types::PathPolicy;
use crate::ice::{self, CandidateKind, Path, PunchReport, Tally, TallyState};
use crate::punch::{self, NatReport, Plan, Technique};

/// Plain checks that succeed at all do so within a few round trips of the slowest path worth
/// having: before that nobody says that they have failed.
const PLAIN_CHECKS: Duration = Duration::from_secs(3);

/// With a smaller chance an attempt is called unlikely, with a larger one unlucky.
const UNLIKELY: f64 = 0.5;

/// What is known about one side's network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Network {
    /// What the NATs in front of it do; `None` as long as nobody has looked.
    pub nat: Option<NatReport>,
    /// Whether UDP gets out and back in, as far as it is known.
    pub udp: Option<bool>,
}

impl Network {
    /// Whether there is a NAT at all, if it is known: one that maps nothing is none.
    #[must_use]
    pub fn has_nat(&self) -> Option<bool> {
        Some(self.nat.as_ref()?.is_nat())
    }
}

/// How a technique ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TriedResult {
    /// It made a path.
    Succeeded,
    /// It made none.
    Failed,
    /// It is not over.
    Running,
    /// It was left because another one had succeeded.
    Stopped,
    /// It is switched off, or excluded by the policy.
    Disabled,
}

impl TriedResult {
    /// The word for it in JSON.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Running => "running",
            Self::Stopped => "stopped",
            Self::Disabled => "disabled",
        }
    }
}

/// A technique, and what came of it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Attempted {
    /// What was tried.
    pub technique: Technique,
    /// How it ended.
    pub result: TriedResult,
    /// Datagrams or connections that this side spent on it, without repetitions.
    pub probes: u32,
    /// How long it took until it succeeded, or was left.
    pub elapsed: Duration,
    /// How likely it was to succeed, 0 to 1, where that can be computed.
    pub probability: Option<f64>,
}

impl Attempted {
    fn end(&mut self) {
        if self.result == TriedResult::Running {
            self.result = TriedResult::Failed;
        }
    }
}

/// How the peer is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// Directly.
    Direct(Technique),
    /// Through a relay.
    Relayed,
    /// Not, or not yet.
    Unreached,
}

/// One side or both.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sides {
    /// This one.
    Ours,
    /// The peer's.
    Theirs,
    /// Both.
    Both,
}

impl Sides {
    fn of(ours: bool, theirs: bool) -> Option<Self> {
        match (ours, theirs) {
            (true, true) => Some(Self::Both),
            (true, false) => Some(Self::Ours),
            (false, true) => Some(Self::Theirs),
            (false, false) => None,
        }
    }
}

/// Why there is no direct path.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Cause {
    /// Direct paths are not wanted, or none over UDP: a side offers relayed addresses, or those of
    /// TCP, only.
    Unwanted(Sides),
    /// UDP gets nowhere.
    UdpBlocked(Sides),
    /// What would have had a chance is switched off.
    Disabled(Technique),
    /// Attempts go on.
    StillTrying,
    /// The two NATs left little chance within the budget, and it did not come true.
    Unlikely {
        /// What was tried.
        technique: Technique,
        /// The chance, 0 to 1.
        probability: f64,
    },
    /// There was a fair chance, and it did not come true.
    Unlucky {
        /// What was tried.
        technique: Technique,
        /// The chance, 0 to 1.
        probability: f64,
    },
    /// Both sides' UDP gets out, and nothing of the other side gets in: a firewall, or a NAT that
    /// nobody could look at.
    Filtered,
}

impl Cause {
    /// The word for it in JSON.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unwanted(_) => "unwanted",
            Self::UdpBlocked(_) => "udp_blocked",
            Self::Disabled(_) => "disabled",
            Self::StillTrying => "still_trying",
            Self::Unlikely { .. } => "unlikely",
            Self::Unlucky { .. } => "unlucky",
            Self::Filtered => "filtered",
        }
    }
}

/// Why a connection uses the path that it uses, or there is none. It holds no address but those
/// of NATs in [`Network::nat`].
#[derive(Debug, Clone, PartialEq)]
pub struct Explanation {
    /// This side's network.
    pub local: Network,
    /// The peer's, as it says or as it seems.
    pub remote: Network,
    /// What was tried, plain checks first, then attempts in the order in which they were made,
    /// the relay last.
    pub tried: Vec<Attempted>,
    /// How the peer is reached.
    pub reach: Reach,
    /// Why not directly; `None` on a direct path.
    pub cause: Option<Cause>,
}

impl Explanation {
    /// Whether nothing more is tried at present: the cause is not going to change by itself.
    #[must_use]
    pub fn is_final(&self) -> bool {
        self.cause != Some(Cause::StillTrying)
    }
}

impl Connector {
    /// Why the path is what it is, as far as it is known at `now`.
    #[must_use]
    pub fn explain(&self, now: Instant) -> Explanation {
        self.explanation(now, self.stage == Stage::Ended)
    }

    /// `ended` says that nothing goes on any more, whatever seems to.
    pub(super) fn explanation(&self, now: Instant, ended: bool) -> Explanation {
        let report = self.report.clone();
        let report = report.unwrap_or_else(|| self.agent.report());
        let punch = self.agent.punch_report();
        let local = self.our_network(&report);
        let remote = self.their_network(&report);
        let reach = self.reach();
        let cause = match reach {
            Reach::Direct(_) => None,
            Reach::Relayed | Reach::Unreached => {
                let trying = !ended && self.is_trying(now, &punch);
                Some(self.cause(&report, (local, remote), &punch, trying))
            }
        };
        let mut tried = self.attempted(now, &punch);
        for attempted in tried.iter_mut().filter(|_| ended) {
            attempted.end();
        }
        Explanation {
            local,
            remote,
            tried,
            reach,
            cause,
        }
    }

    fn reach(&self) -> Reach {
        let connected = self.stage == Stage::Established;
        let path = self.paths.current().or_else(|| self.agent.selected());
        let path = path.or(self.begun_on);
        let path = path.or_else(|| self.valid.last().copied());
        let path = path.or_else(|| self.early.paths().first().copied());
        match path.filter(|_| connected) {
            None => Reach::Unreached,
            Some(path) if is_relayed(&path) => Reach::Relayed,
            Some(path) => Reach::Direct(self.agent.technique(&path)),
        }
    }

    fn our_network(&self, report: &ice::Report) -> Network {
        let asked = report.local.host > 0 && report.stun_servers > 0;
        let heard = report.stun_servers_answered > 0 || self.agent.has_passed_datagrams();
        Network {
            nat: self.agent.punch_report().local,
            udp: (asked || heard).then_some(heard),
        }
    }

    /// The peer tells its NAT, and after a failure whether UDP got out. Without either: who has
    /// told all its candidates, among them its own addresses but none that a STUN server saw,
    /// and says nothing of a NAT, has got no answer from one.
    fn their_network(&self, report: &ice::Report) -> Network {
        let nat = self.agent.punch_report().remote;
        let told = self.peer_report.map(|report| !report.udp_blocked);
        let seen = nat.is_some() || report.remote.server_reflexive > 0;
        let works = (seen || self.agent.has_passed_datagrams()).then_some(true);
        let silent = self.candidates_heard && report.remote.host > 0 && !seen;
        let blocked = (silent && self.punches).then_some(false);
        Network {
            nat,
            udp: told.or(works).or(blocked),
        }
    }

    fn cause(
        &self,
        report: &ice::Report,
        (local, remote): (Network, Network),
        punch: &PunchReport,
        trying: bool,
    ) -> Cause {
        let told = report.remote;
        let theirs = told.relayed > 0 && told.host == 0 && told.server_reflexive == 0;
        if let Some(sides) = Sides::of(report.local.host == 0, theirs) {
            return Cause::Unwanted(sides);
        }
        let blocked = (local.udp == Some(false), remote.udp == Some(false));
        if let Some(sides) = Sides::of(blocked.0, blocked.1) {
            return Cause::UdpBlocked(sides);
        }
        let off = |plan: &Plan| self.disabled.contains(plan.technique);
        match punch.plan.filter(off) {
            _ if trying => Cause::StillTrying,
            Some(plan) => Cause::Disabled(plan.technique),
            None => after_attempts(punch),
        }
    }

    fn is_trying(&self, now: Instant, punch: &PunchReport) -> bool {
        let begun = self.authenticated;
        let fresh = begun.is_some_and(|at| now.saturating_duration_since(at) < PLAIN_CHECKS);
        // As long as there is a mailbox the peer may have something to tell.
        let waiting = self.in_mailbox && self.agent.is_punching();
        self.report.is_none() && (fresh || punch.pending || waiting)
    }

    fn attempted(&self, now: Instant, punch: &PunchReport) -> Vec<Attempted> {
        let (relay, plain): (Vec<_>, Vec<_>) = self
            .agent
            .tallies(now)
            .into_iter()
            .map(Attempted::from)
            .partition(|attempted| attempted.technique == Technique::Relay);
        let plain_works = self.agent.has_passed_datagrams();
        let last = punch.tried.len().saturating_sub(1);
        let attempts = punch.tried.iter().enumerate();
        let attempts = attempts.map(|(n, tried)| over(tried, plain_works && n == last));
        let running = self.agent.punch_running(now);
        let running = running.map(|tried| of_attempt(&tried, TriedResult::Running));
        let disabled = self.disabled.iter().map(|technique| Attempted {
            technique,
            result: TriedResult::Disabled,
            probes: 0,
            elapsed: Duration::ZERO,
            probability: chance_of(technique, punch.plan.as_ref()),
        });
        let mut all: Vec<_> = plain.into_iter().chain(attempts).chain(running).collect();
        all.extend(disabled);
        all.extend(relay.first().copied().or_else(|| self.unusable_relay()));
        all
    }

    /// A relay through which not even a check was sent.
    fn unusable_relay(&self) -> Option<Attempted> {
        let offered = self.relays.were_offered() && self.policy != PathPolicy::DirectOnly;
        let mut outcomes = self.relays.tried().iter();
        let allocated = outcomes.any(|(_, outcome)| outcome == Trouble::Allocated);
        let result = match self.reach() {
            _ if self.relays.is_gathering() => TriedResult::Running,
            Reach::Direct(_) if allocated => TriedResult::Stopped,
            Reach::Direct(_) | Reach::Relayed | Reach::Unreached => TriedResult::Failed,
        };
        offered.then_some(Attempted {
            technique: Technique::Relay,
            result,
            probes: 0,
            elapsed: Duration::ZERO,
            probability: None,
        })
    }
}

pub(super) fn is_relayed(path: &Path) -> bool {
    [path.local_kind, path.remote_kind].contains(&CandidateKind::Relayed)
}

/// Plain checks and every attempt are over.
fn after_attempts(punch: &PunchReport) -> Cause {
    let best = punch
        .tried
        .iter()
        .max_by(|a, b| a.probability.total_cmp(&b.probability));
    let best = best.map(|tried| (tried.technique, tried.probability));
    let planned = punch.plan.map(|plan| (plan.technique, plan.probability));
    match best.or(planned) {
        Some((technique, probability)) if probability < UNLIKELY => Cause::Unlikely {
            technique,
            probability,
        },
        Some((technique, probability)) => Cause::Unlucky {
            technique,
            probability,
        },
        None => Cause::Filtered,
    }
}

fn chance_of(technique: Technique, plan: Option<&Plan>) -> Option<f64> {
    let plan = plan.filter(|plan| plan.technique == technique)?;
    Some(plan.probability)
}

/// An attempt ends when a plain check finds a path, too.
fn over(tried: &punch::Tried, overtaken: bool) -> Attempted {
    let result = match (tried.succeeded, overtaken) {
        (true, _) => TriedResult::Succeeded,
        (false, true) => TriedResult::Stopped,
        (false, false) => TriedResult::Failed,
    };
    of_attempt(tried, result)
}

fn of_attempt(tried: &punch::Tried, result: TriedResult) -> Attempted {
    Attempted {
        technique: tried.technique,
        result,
        probes: tried.probes,
        elapsed: tried.elapsed,
        probability: Some(tried.probability),
    }
}

impl From<Tally> for Attempted {
    fn from(tally: Tally) -> Self {
        Self {
            technique: tally.technique,
            result: match tally.state {
                TallyState::Succeeded => TriedResult::Succeeded,
                TallyState::Running => TriedResult::Running,
                TallyState::Failed => TriedResult::Failed,
                TallyState::Left => TriedResult::Stopped,
            },
            probes: tally.checks,
            elapsed: tally.elapsed,
            probability: None,
        }
    }
}
