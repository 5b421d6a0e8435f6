//! What other tables do with what is forwarded.

use super::bytes::{Arrived, Head, attributes, find, flags, message, number};
use super::expression::Expressions;
use super::nftables::{Batch, SUBSYSTEM};
use super::socket::{Netlink, NetlinkError};

/// Messages (`NFT_MSG_…`).
const GET_CHAIN: u16 = 4;
const NEW_RULE: u16 = 6;
const GET_RULE: u16 = 7;
const DELETE_RULE: u16 = 8;

/// `NF_INET_FORWARD`, and `NF_DROP` as a policy or a verdict.
const FORWARD: u64 = 2;
const DROP: u64 = 0;

/// `NFPROTO_INET`, `NFPROTO_IPV4` and `NFPROTO_IPV6`.
const INET: u8 = 1;
const IPV4: u8 = 2;
const IPV6: u8 = 10;

/// Attributes of a chain and of a rule (`NFTA_CHAIN_…`, `NFTA_RULE_…`).
const CHAIN_TABLE: u16 = 1;
const CHAIN_NAME: u16 = 3;
const CHAIN_HOOK: u16 = 4;
const HOOK_NUMBER: u16 = 1;
const CHAIN_POLICY: u16 = 5;
const RULE_TABLE: u16 = 1;
const RULE_CHAIN: u16 = 2;
const RULE_HANDLE: u16 = 3;
const RULE_EXPRESSIONS: u16 = 4;
const RULE_USER_DATA: u16 = 7;

/// A rule's user data begins with its comment: a record of this type, a length and a text.
const COMMENT: u8 = 0;

/// Of an expression: its name, and what belongs to it (`NFTA_EXPR_…`).
const NAME: u16 = 1;
const DATA: u16 = 2;

/// `NFTA_META_KEY`, and the key that is the packet mark.
const META_KEY: u16 = 2;
const META_MARK: u64 = 3;

/// `NFTA_BITWISE_MASK`, `NFTA_CMP_OP` and `NFTA_CMP_DATA`, `NFTA_DATA_VALUE`.
const BITWISE_MASK: u16 = 4;
const COMPARE_OPERATION: u16 = 2;
const COMPARE_DATA: u16 = 3;
const DATA_VALUE: u16 = 1;

/// `NFTA_MATCH_NAME` and `NFTA_MATCH_INFO` of a match of iptables.
const MATCH_NAME: u16 = 1;
const MATCH_INFO: u16 = 3;

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
    /// Whether a rule of somebody else in its table looks for the mark.
    pub(crate) knows_mark: bool,
    /// The rules in it that have the comment, by their handles.
    own: Vec<u64>,
    /// Whether one of them looks for the mark.
    own_fits: bool,
}

/// What is looked for in the rules of others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sought<'a> {
    /// A bit of the packet mark.
    pub(crate) mark: u32,
    /// The comment of rules that are ours.
    pub(crate) comment: &'a str,
}

impl ForwardChain {
    /// The chain as `nft` names it.
    pub(crate) fn describe(&self) -> String {
        let family = match self.family {
            INET => "inet",
            IPV4 => "ip",
            IPV6 => "ip6",
            _ => "other",
        };
        format!("{family} {} {}", self.table, self.name)
    }

    /// Whether it is this chain of a table of this name, whatever the family.
    pub(crate) fn is(&self, table: &str, name: &str) -> bool {
        [INET, IPV4, IPV6].contains(&self.family) && self.table == table && self.name == name
    }

    /// Whether a rule of ours is in it, as it was put there or as it was before.
    pub(crate) const fn has_own(&self) -> bool {
        !self.own.is_empty()
    }

    /// Whether the rule of ours is in it that looks for the mark.
    pub(crate) const fn has_fitting(&self) -> bool {
        self.own_fits
    }

    /// Puts a rule at the beginning of the chain, with the comment.
    pub(crate) fn insert(&self, batch: &mut Batch, comment: &str, rule: &Expressions) {
        let user_data = commented(comment);
        batch.add_to(self.family, NEW_RULE, flags::CREATE, |to| {
            to.text(RULE_TABLE, &self.table);
            to.text(RULE_CHAIN, &self.name);
            to.nest_written(RULE_EXPRESSIONS, rule.as_bytes());
            to.bytes(RULE_USER_DATA, &user_data);
        });
    }

    /// Takes the rules of ours away.
    pub(crate) fn remove_own(&self, batch: &mut Batch) {
        for handle in &self.own {
            batch.add_to(self.family, DELETE_RULE, 0, |to| {
                to.text(RULE_TABLE, &self.table);
                to.text(RULE_CHAIN, &self.name);
                to.u64(RULE_HANDLE, *handle);
            });
        }
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
            knows_mark: false,
            own: Vec::new(),
            own_fits: false,
        })
    }

    /// Rules come in their order: the last one says what becomes of the rest.
    fn learn(&mut self, arrived: &Arrived<'_>, sought: Sought<'_>) {
        let value = |kind| find_in(arrived, kind);
        let is = |kind, name: &str| value(kind).map(text).is_some_and(|found| found == name);
        if arrived.payload.first() != Some(&self.family) || !is(RULE_TABLE, &self.table) {
            return;
        }
        let expressions = value(RULE_EXPRESSIONS).unwrap_or_default();
        let expressions: Vec<&[u8]> = attributes(expressions).map(|(_, value)| value).collect();
        let fits = looks_for(&expressions, sought.mark);
        let user_data = value(RULE_USER_DATA).unwrap_or_default();
        let here = is(RULE_CHAIN, &self.name);
        if here && user_data.starts_with(&commented(sought.comment)) {
            self.own.extend(value(RULE_HANDLE).and_then(number));
            self.own_fits |= fits;
            return;
        }
        self.knows_mark |= fits;
        if here {
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
    pub(crate) fn forward_chains(
        &mut self,
        sought: Sought<'_>,
    ) -> Result<Vec<ForwardChain>, NetlinkError> {
        let mut chains = Vec::new();
        let request = dump(GET_CHAIN, self.next());
        self.ask(&request, |arrived| {
            chains.extend(ForwardChain::read(arrived));
        })?;
        let request = dump(GET_RULE, self.next());
        self.ask(&request, |arrived| {
            for chain in &mut chains {
                chain.learn(arrived, sought);
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

/// The user data of a rule with this comment.
fn commented(comment: &str) -> Vec<u8> {
    let length = u8::try_from(comment.len().saturating_add(1)).unwrap_or(u8::MAX);
    [&[COMMENT, length], comment.as_bytes(), &[0]].concat()
}

/// Whether a rule takes packets that have the bit of the mark, and not those without it.
fn looks_for(expressions: &[&[u8]], bit: u32) -> bool {
    // What of the mark is looked at, once it is loaded.
    let mut mask = None;
    expressions.iter().any(|expression| {
        let data = find(expression, DATA).unwrap_or_default();
        match name_of(expression).as_str() {
            "meta" if find(data, META_KEY).and_then(number) == Some(META_MARK) => {
                mask = Some(u32::MAX);
                false
            }
            "bitwise" => {
                mask = mask.and_then(|_| mark_in(data, BITWISE_MASK));
                false
            }
            "cmp" => {
                let equal = find(data, COMPARE_OPERATION).and_then(number) == Some(0);
                let seen = mask.take().unwrap_or_default();
                let value = mark_in(data, COMPARE_DATA).unwrap_or_default();
                equal && seen & value & bit == bit
            }
            "match" => match_looks_for(data, bit),
            _ => false,
        }
    })
}

/// A value of four bytes in the machine's order.
fn mark_in(data: &[u8], kind: u16) -> Option<u32> {
    let value = find(find(data, kind)?, DATA_VALUE)?;
    value.first_chunk().map(|value| u32::from_ne_bytes(*value))
}

/// The same of iptables' match `mark`: mark, mask, and whether it is turned round.
fn match_looks_for(data: &[u8], bit: u32) -> bool {
    let info = find(data, MATCH_INFO).unwrap_or_default();
    let Some(&[m0, m1, m2, m3, k0, k1, k2, k3, inverted]) = info.first_chunk() else {
        return false;
    };
    let mark = u32::from_ne_bytes([m0, m1, m2, m3]);
    let mask = u32::from_ne_bytes([k0, k1, k2, k3]);
    let named = find(data, MATCH_NAME).map(text).as_deref() == Some("mark");
    named && inverted == 0 && mark & mask & bit == bit
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
