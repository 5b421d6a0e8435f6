//! The iptables from before nftables. The kernel tells nobody of changes in its tables, so they are
//! looked at every now and then, by its own program, and only where there are any.

use std::fs;
use std::future::pending;
use std::io::{self, ErrorKind};
use std::process::Command;
use std::time::{Duration, Instant};

use tokio::task::{JoinHandle, spawn_blocking};

use super::firewalls::{COMMENT, Firewall, Others};

/// Between two looks.
const LOOK: Duration = Duration::from_secs(2);

/// One program for each family.
#[derive(Debug)]
struct Family {
    /// Tables that are loaded.
    loaded: &'static str,
    /// The second where there is no other iptables.
    programs: [&'static str; 2],
    /// The chain that decides about what is forwarded, as it is told of.
    chain: &'static str,
}

const FAMILIES: [Family; 2] = [
    Family {
        loaded: "/proc/self/net/ip_tables_names",
        programs: ["iptables-legacy", "iptables"],
        chain: "ip filter FORWARD (iptables-legacy)",
    },
    Family {
        loaded: "/proc/self/net/ip6_tables_names",
        programs: ["ip6tables-legacy", "ip6tables"],
        chain: "ip6 filter FORWARD (iptables-legacy)",
    },
];

/// Whether our rule is wanted there, and what it lets in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Wanted {
    rule: bool,
    mark: u32,
}

impl Wanted {
    /// By these firewalls.
    pub(super) fn of(firewalls: &[Firewall], mark: u32) -> Self {
        let on_iptables = [Firewall::Ufw, Firewall::Iptables];
        Self {
            rule: firewalls.iter().any(|one| on_iptables.contains(one)),
            mark,
        }
    }
}

/// What is known of it.
#[derive(Debug, Default)]
pub(super) struct Legacy {
    pub(super) seen: Others,
    looked: Option<Instant>,
    looking: Option<JoinHandle<Others>>,
}

impl Legacy {
    /// Looks, and waits until that is done.
    pub(super) fn look(&mut self, now: Instant, wanted: Wanted) {
        self.looked = Some(now);
        self.seen = settle(wanted);
    }

    /// Begins to look if it is time.
    pub(super) fn begin(&mut self, now: Instant, wanted: Wanted) {
        let age = |looked| now.saturating_duration_since(looked);
        let due = self.looked.is_none_or(|looked| age(looked) >= LOOK);
        let any = FAMILIES.iter().any(Family::is_loaded);
        if due && self.looking.is_none() && (any || self.seen != Others::default()) {
            self.looked = Some(now);
            self.looking = Some(spawn_blocking(move || settle(wanted)));
        }
    }

    /// Waits for the end of a look, for ever if there is none; whether something has changed.
    pub(super) async fn changed(&mut self) -> bool {
        let Some(looking) = &mut self.looking else {
            return pending().await;
        };
        let seen = looking.await;
        self.looking = None;
        let seen = seen.unwrap_or_default();
        let changed = seen != self.seen;
        self.seen = seen;
        changed
    }

    /// Takes our rule out, and waits until that is done.
    pub(super) async fn withdraw(mut self) {
        let none = Wanted::of(&[], 0);
        if self.looking.is_some() {
            self.changed().await;
        }
        if !self.seen.integrated.is_empty() {
            let _ = spawn_blocking(move || settle(none)).await;
        }
    }
}

/// Brings our rule into the chains, or out of them; how it stands then.
fn settle(wanted: Wanted) -> Others {
    let mut others = Others::default();
    for family in FAMILIES.iter().filter(|family| family.is_loaded()) {
        match family.settle(wanted) {
            Ok(Stands::Ours) => others.integrated.push(family.chain.to_owned()),
            Ok(Stands::InTheWay) => others.obstacles.push(family.chain.to_owned()),
            Ok(Stands::Aside) => {}
            Err(error) => tracing::warn!(%error, "{} cannot be looked at", family.chain),
        }
    }
    others
}

/// How a chain stands to what is mapped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stands {
    Ours,
    InTheWay,
    Aside,
}

impl Family {
    fn is_loaded(&self) -> bool {
        let names = fs::read_to_string(self.loaded).unwrap_or_default();
        names.lines().any(|name| name == "filter")
    }

    fn settle(&self, wanted: Wanted) -> io::Result<Stands> {
        let chain = Chain::read(&self.run(&["-S", "FORWARD"])?, wanted.mark);
        let fits = chain.own.len() == 1 && chain.fits;
        if wanted.rule != fits || (!wanted.rule && !chain.own.is_empty()) {
            // The last one first: the others keep their numbers.
            for number in chain.own.iter().rev() {
                self.run(&["-D", "FORWARD", &number.to_string()])?;
            }
            if wanted.rule {
                let mark = mark_of(wanted.mark);
                let words = ["-I", "FORWARD", "1", "-m", "mark", "--mark", &mark];
                let comment = ["-m", "comment", "--comment", COMMENT, "-j", "ACCEPT"];
                self.run(&[&words[..], &comment].concat())?;
            }
        }
        Ok(match wanted.rule {
            true => Stands::Ours,
            false if chain.drops && !chain.knows_mark => Stands::InTheWay,
            false => Stands::Aside,
        })
    }

    /// Runs the program; what it says.
    fn run(&self, arguments: &[&str]) -> io::Result<String> {
        let run = |program: &str| {
            Command::new(program)
                .args(["-w", "1"])
                .args(arguments)
                .output()
        };
        let [first, second] = self.programs;
        let output = match run(first) {
            Err(error) if error.kind() == ErrorKind::NotFound => run(second),
            output => output,
        }?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            return Err(io::Error::other(said.trim().escape_debug().to_string()));
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

/// What the rules of a chain do.
#[derive(Debug, Default, PartialEq, Eq)]
struct Chain {
    /// Whether what none of its rules decides about is dropped.
    drops: bool,
    /// Whether a rule of somebody else looks for the mark.
    knows_mark: bool,
    /// Rules of ours, by their numbers.
    own: Vec<usize>,
    /// Whether one of them looks for the mark.
    fits: bool,
}

impl Chain {
    /// Reads what the program lists.
    fn read(rules: &str, mark: u32) -> Self {
        let mut chain = Self::default();
        let mark = format!("--mark {} ", mark_of(mark));
        let comment = format!("--comment \"{COMMENT}\"");
        let appended = |line: &&str| line.starts_with("-A ");
        chain.drops = rules.lines().any(|line| line == "-P FORWARD DROP");
        for (number, line) in (1..).zip(rules.lines().filter(appended)) {
            let knows = line.contains(&mark) && line.ends_with("-j ACCEPT");
            if line.contains(&comment) {
                chain.own.push(number);
                chain.fits |= knows;
            } else {
                chain.knows_mark |= knows;
            }
            let rest = line.strip_prefix("-A FORWARD -j ").unwrap_or_default();
            chain.drops |= rest.starts_with("DROP") || rest.starts_with("REJECT");
        }
        chain
    }
}

fn mark_of(mark: u32) -> String {
    format!("{mark:#x}/{mark:#x}")
}

#[cfg(test)]
mod tests {
    use super::*;

    const MARK: u32 = 0x0800_0000;

    fn read(rules: &[&str]) -> Chain {
        Chain::read(&rules.join("\n"), MARK)
    }

    const OURS: &str = "-A FORWARD -m mark --mark 0x8000000/0x8000000 -m comment --comment \
                        \"postern gateway\" -j ACCEPT";

    #[test]
    fn a_policy_and_a_last_rule_may_drop() {
        assert_eq!(read(&["-P FORWARD ACCEPT"]), Chain::default());
        assert!(read(&["-P FORWARD DROP"]).drops);
        let accept = "-A FORWARD -i lan -j ACCEPT";
        for last in ["DROP", "REJECT --reject-with icmp-port-unreachable"] {
            let last = format!("-A FORWARD -j {last}");
            assert!(read(&["-P FORWARD ACCEPT", accept, &last]).drops, "{last}");
        }
        let some = "-A FORWARD -s 192.0.2.1/32 -j DROP";
        assert!(!read(&["-P FORWARD ACCEPT", some]).drops);
    }

    #[test]
    fn our_rule_is_known_by_its_comment_and_fits_by_its_mark() {
        let other = OURS.replace("0x8000000/0x8000000", "0x1/0x1");
        let chain = read(&["-P FORWARD DROP", "-A FORWARD -j DOCKER", OURS, &other]);
        assert_eq!((&chain.own[..], chain.fits), (&[2, 3][..], true));
        assert!(!read(&["-P FORWARD DROP", &other]).fits);
    }

    #[test]
    fn a_rule_of_the_owner_may_know_the_mark() {
        let own = "-A FORWARD -m mark --mark 0x8000000/0x8000000 -j ACCEPT";
        let chain = read(&["-P FORWARD DROP", own]);
        assert!(chain.knows_mark && chain.own.is_empty());
    }
}
