//! Why a path is what it is, in words.

use std::fmt::{self, Write as _};

use postern_proto::connect::{
    self, Attempted, Cause, Failure, Network, NoRelay, Reach, RelayTransport, Sides, Tried,
    TriedResult, Trouble,
};
use postern_proto::punch::{Allocation, Filtering, Mapping, NatReport, Technique};
use postern_wire::signal::Report;

/// Why a connection uses the path that it uses, or why there is none: what each side's network
/// does, what was tried with which result, and what follows.
///
/// It has no addresses in it, so that it can be shown to others: as a sentence
/// ([`reason`](Self::reason)), and as lines with all details (its [`Display`](fmt::Display)).
#[derive(Debug, Clone, PartialEq)]
pub struct Explanation {
    facts: connect::Explanation,
    /// The sentence about a failure.
    no_path: Option<String>,
}

impl From<connect::Explanation> for Explanation {
    fn from(facts: connect::Explanation) -> Self {
        Self {
            facts,
            no_path: None,
        }
    }
}

impl Explanation {
    /// The explanation in a failure, if it is one to find a path.
    pub(crate) fn of_failure(failure: &Failure) -> Option<Self> {
        let Failure::NoPath {
            ours,
            theirs,
            relay,
            looked,
            explanation,
        } = failure
        else {
            return None;
        };
        let sentence = match looked {
            true => explain(ours, theirs.as_ref(), relay),
            false => explain_relayed(relay),
        };
        Some(Self {
            facts: (**explanation).clone(),
            no_path: Some(sentence),
        })
    }

    /// The facts, for programs.
    pub fn facts(&self) -> &connect::Explanation {
        &self.facts
    }

    /// Whether nothing more is tried at present.
    pub fn is_final(&self) -> bool {
        self.facts.is_final()
    }

    /// One sentence, without a full stop: how the peer is reached, and why not better.
    pub fn reason(&self) -> String {
        if let Some(sentence) = &self.no_path {
            return sentence.clone();
        }
        match (self.facts.reach, self.facts.cause) {
            (Reach::Direct(technique), _) => {
                format!("the connection is direct, over {}", technique.words())
            }
            (Reach::Relayed, Some(cause)) => {
                format!("the connection is relayed, because {}", self.why(cause))
            }
            (Reach::Relayed, None) => "the connection is relayed".to_owned(),
            (Reach::Unreached, _) => "there is no connection yet".to_owned(),
        }
    }

    /// The [`reason`](Self::reason) as a whole sentence.
    pub fn sentence(&self) -> String {
        let reason = self.reason();
        let mut letters = reason.chars();
        let first = letters.next().into_iter().flat_map(char::to_uppercase);
        first.chain(letters).chain(['.']).collect()
    }

    fn why(&self, cause: Cause) -> String {
        match cause {
            Cause::Unwanted(Sides::Ours) => {
                "this side uses relayed paths only (--relay-only or --no-udp)".to_owned()
            }
            Cause::Unwanted(Sides::Theirs) => {
                "the other side offers relayed addresses only".to_owned()
            }
            Cause::Unwanted(Sides::Both) => "both sides use relayed paths only".to_owned(),
            Cause::UdpBlocked(Sides::Ours) => "this side's network lets no UDP out".to_owned(),
            Cause::UdpBlocked(Sides::Theirs) => {
                "the other side's network lets no UDP out".to_owned()
            }
            Cause::UdpBlocked(Sides::Both) => "both networks let no UDP out".to_owned(),
            Cause::Disabled(technique) => format!(
                "what these two networks need is switched off: {} (--disable {})",
                technique.words(),
                technique.as_str()
            ),
            Cause::StillTrying => "a direct path has not been found so far".to_owned(),
            Cause::Unlikely {
                technique,
                probability,
            } => format!(
                "{}; {} had a chance of {} within the number of packets that is polite",
                self.networks_in_short(),
                technique.words(),
                percent(probability)
            ),
            Cause::Unlucky {
                technique,
                probability,
            } => format!(
                "{} did not succeed, although its chance was {}: \
                 a firewall may be in the way, or packets were lost",
                technique.words(),
                percent(probability)
            ),
            Cause::Filtered => {
                "UDP gets out on both sides, but nothing of the other side gets in: \
                 most likely a firewall drops it"
                    .to_owned()
            }
        }
    }

    fn networks_in_short(&self) -> &'static str {
        let strict = |network: &Network| network.nat.is_some_and(|nat| nat.mapping.is_dependent());
        match (strict(&self.facts.local), strict(&self.facts.remote)) {
            (true, true) => "both sides' routers use another port for each destination",
            (true, false) => "this side's router uses another port for each destination",
            (false, true) => "the other side's router uses another port for each destination",
            (false, false) => "a router may use another port for each destination",
        }
    }

    /// What is not in the sentence: a line for each side, and one for each technique.
    pub fn details(&self) -> String {
        let mut text = String::new();
        // Writing to a string cannot fail.
        let _ = self.write_details(&mut text);
        text
    }

    fn write_details(&self, text: &mut String) -> fmt::Result {
        let (local, remote) = (&self.facts.local, &self.facts.remote);
        writeln!(text, "  this side's network:   {}", network_words(local))?;
        writeln!(text, "  the other side's:      {}", network_words(remote))?;
        writeln!(text, "  tried:")?;
        for attempted in &self.facts.tried {
            writeln!(text, "    {}", attempted_words(attempted))?;
        }
        match self.advice() {
            Some(advice) => write!(text, "  what helps: {advice}"),
            None => {
                text.truncate(text.trim_end().len());
                Ok(())
            }
        }
    }

    fn advice(&self) -> Option<&'static str> {
        match self.facts.cause? {
            Cause::UdpBlocked(_) => Some("a network or a firewall that lets UDP out"),
            Cause::Unlikely { .. } | Cause::Unlucky { .. } | Cause::Filtered => Some(
                "IPv6 on both sides, or a router on one side that keeps one port for all \
                 destinations or opens ports on request (UPnP, PCP)",
            ),
            Cause::Disabled(_) => Some("leaving the option out"),
            Cause::Unwanted(_) | Cause::StillTrying => None,
        }
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}\n{}", self.sentence(), self.details())
    }
}

/// A chance for people: no chance is certain.
fn percent(probability: f64) -> String {
    match probability * 100.0 {
        percent @ ..0.01 if percent > 0.0 => "less than 0.01 %".to_owned(),
        percent @ ..1.0 => format!("{percent:.2} %"),
        percent @ ..10.0 => format!("{percent:.1} %"),
        percent => format!("{:.0} %", percent.min(99.0)),
    }
}

fn network_words(network: &Network) -> String {
    match (network.udp, &network.nat) {
        (Some(false), _) => "lets no UDP out".to_owned(),
        (_, None) => "not known".to_owned(),
        (_, Some(nat)) if !nat.is_nat() => "no NAT, perhaps a firewall".to_owned(),
        (_, Some(nat)) => nat_words(nat),
    }
}

fn nat_words(nat: &NatReport) -> String {
    let mut words = format!("NAT, {}", mapping_words(nat.mapping));
    let allocation = match nat.allocation {
        Allocation::Unknown => String::new(),
        Allocation::Preserving => ", the program's own where it is free".to_owned(),
        Allocation::Sequential { step, .. } => format!(", in order, {step} apart"),
        Allocation::Random(range) => format!(", at random from {} to {}", range.first, range.last),
    };
    words.push_str(&allocation);
    words.push_str(match nat.filtering {
        Filtering::Unknown => "",
        Filtering::EndpointIndependent => "; it lets everybody in",
        Filtering::AddressDependent => "; it lets in whom it has sent to, from any port",
        Filtering::AddressAndPortDependent => "; it lets in whom it has sent to, from that port",
    });
    words
}

fn mapping_words(mapping: Mapping) -> &'static str {
    match mapping {
        Mapping::Unknown => {
            "whether each destination gets another port is not known (one server was asked)"
        }
        Mapping::EndpointIndependent => "one port for all destinations",
        Mapping::PortIndependent => {
            "whether each address gets another port is not known (servers at one address were asked)"
        }
        Mapping::AddressDependent => "another port for each address",
        Mapping::AddressAndPortDependent => "another port for each address and port",
        Mapping::EndpointDependent => "another port for each destination",
    }
}

fn attempted_words(attempted: &Attempted) -> String {
    let words = attempted.technique.words();
    let result = match (attempted.result, attempted.technique) {
        (TriedResult::Disabled, _) => return format!("{words}: switched off"),
        (TriedResult::Succeeded, Technique::Relay) => "works",
        (TriedResult::Succeeded, _) => "succeeded",
        (TriedResult::Failed, _) => "did not succeed",
        (TriedResult::Running, _) => "goes on",
        (TriedResult::Stopped, _) => "was left when another way worked",
    };
    let packets = match attempted.probes {
        0 => String::new(),
        1 => ", 1 packet".to_owned(),
        many => format!(", {many} packets"),
    };
    let seconds = attempted.elapsed.as_secs_f64();
    let elapsed = match seconds >= 0.05 {
        true => format!(" in {seconds:.1} s"),
        false => String::new(),
    };
    let chance = attempted.probability.map(percent);
    let chance = chance.map_or_else(String::new, |chance| format!(", chance {chance}"));
    format!("{words}: {result}{packets}{elapsed}{chance}")
}

/// One sentence about both sides' networks and what that means.
fn explain(ours: &Report, theirs: Option<&Report>, relay: &NoRelay) -> String {
    let here = network(ours);
    let there = theirs.map_or("did not say what it saw", network);
    let cause = cause(ours, theirs);
    let relay = match relay {
        NoRelay::NotWanted => "--direct-only forbids the relay".to_owned(),
        NoRelay::NotOffered => format!("{NO_RELAY} to fall back to {HAS_RELAY}"),
        NoRelay::Failed(tried) => unusable(tried, " either"),
    };
    format!(
        "no direct path was found: this side's network {here}, the other side's {there}; {cause}, and {relay}"
    )
}

/// One sentence for who looked for relayed paths only.
fn explain_relayed(relay: &NoRelay) -> String {
    let relay = match relay {
        NoRelay::NotWanted => "--direct-only forbids the relay".to_owned(),
        NoRelay::NotOffered => format!("{NO_RELAY} {HAS_RELAY}"),
        NoRelay::Failed(tried) => unusable(tried, ""),
    };
    format!("no relayed path was found, and this side uses no other: {relay}")
}

/// What a network did, as the end of a sentence that begins with it.
fn network(report: &Report) -> &'static str {
    if report.udp_blocked {
        "let no UDP out"
    } else if report.mapped_differs {
        "uses another port for each destination"
    } else if report.checks_received > 0 {
        "let packets of the other side in, but not back out"
    } else {
        "let UDP out, but nothing of the other side in"
    }
}

/// What the two together mean. Without a look from a second address nobody can tell
/// which of two networks is the strict one.
fn cause(ours: &Report, theirs: Option<&Report>) -> &'static str {
    let blocked = ours.udp_blocked || theirs.is_some_and(|theirs| theirs.udp_blocked);
    if blocked {
        "without UDP no direct path can be made, since this version has no TCP for it"
    } else {
        "most likely a router uses another port for each destination or a firewall drops UDP"
    }
}

/// Which servers have one.
const HAS_RELAY: &str = "(`postern server --relay` has one)";

const NO_RELAY: &str = "the server has no relay";

/// What came of each way to the relay.
fn unusable(tried: &Tried, either: &str) -> String {
    let ways: Vec<String> = tried.iter().map(outcome).collect();
    match ways.as_slice() {
        [] => "the server's relay offers no way to it that may be used".to_owned(),
        _ => format!(
            "the server's relay could not be used{either}: {}",
            ways.join(", ")
        ),
    }
}

fn outcome((transport, trouble): (RelayTransport, Trouble)) -> String {
    let transport = match transport {
        RelayTransport::Udp => "UDP",
        RelayTransport::Tcp => "TCP",
        RelayTransport::Tls => "TLS",
    };
    let came = match trouble {
        Trouble::Unreachable => "made no connection",
        Trouble::Silent => "got no answer",
        Trouble::Refused => "was refused",
        Trouble::Lost => "was cut off",
        Trouble::Allocated => "worked, but the other side was not heard through it",
    };
    format!("{transport} {came}")
}

#[cfg(test)]
mod tests;
