//! What other tables do with what is forwarded.

use super::bytes::{Arrived, Head, attributes, find, flags, message, number};
use super::nftables::SUBSYSTEM;
use super::socket::{Netlink, NetlinkError};

/// Messages (`NFT_MSG_…`).
const GET_CHAIN: u16 = 4;
const GET_RULE: u16 = 7;

/// `NF_INET_FORWARD`, and `NF_DROP` as a policy or a verdict.
const FORWARD: u64 = 2;
const DROP: u64 = 0;

/// Attributes of a chain and of a rule (`NFTA_CHAIN_…`, `NFTA_RULE_…`).
const CHAIN_TABLE: u16 = 1;
const CHAIN_NAME: u16 = 3;
const CHAIN_HOOK: u16 = 4;
const HOOK_NUMBER: u16 = 1;
const CHAIN_POLICY: u16 = 5;
const RULE_TABLE: u16 = 1;
const RULE_CHAIN: u16 = 2;
const RULE_EXPRESSIONS: u16 = 4;

/// Of an expression: its name, and what belongs to it (`NFTA_EXPR_…`).
const NAME: u16 = 1;
const DATA: u16 = 2;

/// `NFTA_META_KEY`, and the key that is the packet mark.
const META_KEY: u16 = 2;
const META_MARK: u64 = 3;

/// `NFTA_MATCH_NAME` of a match of iptables.
const MATCH_NAME: u16 = 1;

/// `NFTA_IMMEDIATE_DATA`, `NFTA_DATA_VERDICT`, `NFTA_VERDICT_CODE`.
const IMMEDIATE_DATA: u16 = 2;
const DATA_VERDICT: u16 = 2;
const VERDICT_CODE: u16 = 1;

/// A chain that sees what is forwarded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ForwardChain {
    family: u8,
    /// Its table.
    pub(crate) table: String,
    name: String,
    /// Whether it drops what none of its rules decides about.
    pub(crate) drops: bool,
    /// Whether a rule of its table looks at packet marks.
    pub(crate) knows_marks: bool,
}

impl ForwardChain {
    /// The chain as `nft` names it.
    pub(crate) fn describe(&self) -> String {
        let family = match self.family {
            1 => "inet",
            2 => "ip",
            10 => "ip6",
            _ => "other",
        };
        format!("{family} {} {}", self.table, self.name)
    }

    fn read(arrived: &Arrived<'_>) -> Option<Self> {
        let value = |kind| find_in(arrived, kind);
        let hook = find(value(CHAIN_HOOK)?, HOOK_NUMBER).and_then(number)?;
        let policy = value(CHAIN_POLICY).and_then(number);
        (hook == FORWARD).then_some(())?;
        Some(Self {
            family: *arrived.payload.first()?,
            table: text(value(CHAIN_TABLE)?),
            name: text(value(CHAIN_NAME)?),
            drops: policy == Some(DROP),
            knows_marks: false,
        })
    }

    /// Rules come in their order: the last one says what becomes of the rest.
    fn learn(&mut self, arrived: &Arrived<'_>) {
        let value = |kind| find_in(arrived, kind);
        let is = |kind, name: &str| value(kind).map(text).is_some_and(|found| found == name);
        if arrived.payload.first() != Some(&self.family) || !is(RULE_TABLE, &self.table) {
            return;
        }
        let expressions = value(RULE_EXPRESSIONS).unwrap_or_default();
        let expressions: Vec<&[u8]> = attributes(expressions).map(|(_, value)| value).collect();
        self.knows_marks |= expressions.iter().any(|one| looks_at_marks(one));
        if is(RULE_CHAIN, &self.name) {
            let decides = |one: &&[u8]| !["counter", "log"].contains(&name_of(one).as_str());
            self.drops |=
                expressions.iter().any(decides) && expressions.iter().all(|one| always_drops(one));
        }
    }
}

impl Netlink {
    /// All chains that see what is forwarded, those of iptables over nftables included.
    ///
    /// # Errors
    ///
    /// What the kernel said.
    pub(crate) fn forward_chains(&mut self) -> Result<Vec<ForwardChain>, NetlinkError> {
        let mut chains = Vec::new();
        let request = dump(GET_CHAIN, self.next());
        self.ask(&request, |arrived| {
            chains.extend(ForwardChain::read(arrived));
        })?;
        let request = dump(GET_RULE, self.next());
        self.ask(&request, |arrived| {
            for chain in &mut chains {
                chain.learn(arrived);
            }
        })?;
        Ok(chains)
    }
}

/// Asks for all there are, of every family.
fn dump(what: u16, sequence: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    let head = Head {
        kind: SUBSYSTEM << 8 | what,
        flags: flags::REQUEST | flags::DUMP,
        sequence,
        family: 0,
        resource: 0,
    };
    message(&mut bytes, head, |_| {});
    bytes
}

fn find_in<'a>(arrived: &Arrived<'a>, kind: u16) -> Option<&'a [u8]> {
    let mut all = arrived.attributes();
    all.find_map(|(found, value)| (found == kind).then_some(value))
}

fn text(value: &[u8]) -> String {
    let end = value.iter().position(|byte| *byte == 0);
    let value = value.get(..end.unwrap_or(value.len())).unwrap_or_default();
    String::from_utf8_lossy(value).into_owned()
}

fn name_of(expression: &[u8]) -> String {
    find(expression, NAME).map(text).unwrap_or_default()
}

fn looks_at_marks(expression: &[u8]) -> bool {
    let data = find(expression, DATA).unwrap_or_default();
    match name_of(expression).as_str() {
        "meta" => find(data, META_KEY).and_then(number) == Some(META_MARK),
        "match" => find(data, MATCH_NAME).map(text).as_deref() == Some("mark"),
        _ => false,
    }
}

/// Whether a rule of nothing but such expressions drops everything.
fn always_drops(expression: &[u8]) -> bool {
    match name_of(expression).as_str() {
        "counter" | "log" | "reject" => true,
        "immediate" => {
            let data = find(expression, DATA).and_then(|data| find(data, IMMEDIATE_DATA));
            let verdict = data.and_then(|data| find(data, DATA_VERDICT));
            let code = verdict.and_then(|verdict| find(verdict, VERDICT_CODE));
            code.and_then(number) == Some(DROP)
        }
        _ => false,
    }
}
