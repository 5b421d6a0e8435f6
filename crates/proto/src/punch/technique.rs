//! The ways to a peer: their names, which of them have a switch, and what people are told.

use std::fmt;
use std::str::FromStr;

/// How a path comes about, or is helped to, in the order in which they are preferred.
///
/// This is the one place where a technique gets its name, its switch and its words: a new
/// one is a variant here, a line in [`ALL`](Self::ALL) and one in `entry`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Technique {
    /// The peer's own address.
    Host,
    /// The peer's own IPv6 address.
    Ipv6,
    /// A port that a router opened on request (PCP, NAT-PMP, UPnP-IGD).
    Mapped,
    /// An IPv6 address that stands for an IPv4 one (RFC 6052).
    Nat64,
    /// An address that a STUN server saw.
    Reflexive,
    /// An address that a check revealed.
    PeerReflexive,
    /// A datagram that opens a mapping and is not to arrive. It helps others and makes no path
    /// of its own.
    Primer,
    /// A port that was predicted.
    Predicted,
    /// A port that was met by trying many.
    Birthday,
    /// Two ports, one for each direction.
    Asymmetric,
    /// A TCP connection.
    Tcp,
    /// A TCP connection that only the other side could open, and did.
    Reversal,
    /// A TURN server.
    Relay,
}

/// What there is to say about a technique.
struct Entry {
    /// The name in JSON and on the command line.
    name: &'static str,
    /// Other names on the command line.
    also: &'static [&'static str],
    /// Whether it can be switched off on its own.
    switch: bool,
    /// What it is, for people: it stands after "tried" or "over".
    words: &'static str,
}

const fn entry(name: &'static str, switch: bool, words: &'static str) -> Entry {
    Entry {
        name,
        also: &[],
        switch,
        words,
    }
}

impl Technique {
    /// All of them, in order.
    pub const ALL: [Self; 13] = [
        Self::Host,
        Self::Ipv6,
        Self::Mapped,
        Self::Nat64,
        Self::Reflexive,
        Self::PeerReflexive,
        Self::Primer,
        Self::Predicted,
        Self::Birthday,
        Self::Asymmetric,
        Self::Tcp,
        Self::Reversal,
        Self::Relay,
    ];

    const fn entry(self) -> Entry {
        match self {
            Self::Host => entry("host", false, "the other side's own address"),
            Self::Ipv6 => entry("ipv6", true, "IPv6"),
            Self::Mapped => entry("mapped", true, "a port opened by a router on request"),
            Self::Nat64 => entry("nat64", false, "IPv4 through an IPv6 network's NAT64"),
            Self::Reflexive => entry(
                "reflexive",
                false,
                "the address that a STUN server sees (hole punching)",
            ),
            Self::PeerReflexive => entry(
                "peer_reflexive",
                false,
                "an address that only the other side sees",
            ),
            Self::Primer => entry("primer", true, "packets that open the own router only"),
            Self::Predicted => Entry {
                also: &["predict"],
                ..entry("predicted", true, "predicting the router's next port")
            },
            Self::Birthday => entry("birthday", true, "trying many ports until two meet"),
            Self::Asymmetric => entry("asymmetric", true, "one port for each direction"),
            Self::Tcp => entry("tcp", true, "a TCP connection"),
            Self::Reversal => entry("reversal", false, "being called back over TCP"),
            Self::Relay => entry("relay", true, "the server's relay"),
        }
    }

    /// The name in JSON and on the command line: lower case, words joined by an underscore.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        self.entry().name
    }

    /// What it is, for people.
    #[must_use]
    pub const fn words(self) -> &'static str {
        self.entry().words
    }

    /// Whether it can be switched off on its own ([`Techniques`]).
    #[must_use]
    pub const fn has_switch(self) -> bool {
        self.entry().switch
    }

    const fn bit(self) -> u16 {
        1_u16.wrapping_shl(self as u32)
    }
}

/// The name is none of a technique that can be switched off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnknownTechnique;

impl fmt::Display for UnknownTechnique {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the techniques that can be switched off are ")?;
        let switches = Technique::ALL.iter().filter(|t| t.has_switch());
        let names: Vec<_> = switches.map(|t| t.as_str()).collect();
        f.write_str(&names.join(", "))
    }
}

impl std::error::Error for UnknownTechnique {}

impl FromStr for Technique {
    type Err = UnknownTechnique;

    /// Reads the name of a technique that has a switch.
    fn from_str(text: &str) -> Result<Self, UnknownTechnique> {
        let named = |t: &&Self| t.as_str() == text || t.entry().also.contains(&text);
        let mut switches = Self::ALL.iter().filter(|t| t.has_switch());
        switches.find(named).copied().ok_or(UnknownTechnique)
    }
}

/// A set of techniques.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct Techniques(u16);

impl Techniques {
    /// None of them.
    pub const NONE: Self = Self(0);

    /// Adds one.
    pub const fn insert(&mut self, technique: Technique) {
        self.0 |= technique.bit();
    }

    /// Whether it is among them.
    #[must_use]
    pub const fn contains(self, technique: Technique) -> bool {
        self.0 & technique.bit() != 0
    }

    /// Each of them, in order.
    pub fn iter(self) -> impl Iterator<Item = Technique> {
        let mut all = Technique::ALL.into_iter();
        std::iter::from_fn(move || all.find(|technique| self.contains(*technique)))
    }
}

impl FromIterator<Technique> for Techniques {
    fn from_iter<I: IntoIterator<Item = Technique>>(techniques: I) -> Self {
        let mut set = Self::NONE;
        for technique in techniques {
            set.insert(technique);
        }
        set
    }
}

impl fmt::Debug for Techniques {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_has_each_technique_once_and_in_order() {
        let places = Technique::ALL.iter().map(|technique| *technique as usize);
        assert!(places.eq(0..Technique::ALL.len()));
        assert_eq!(Technique::Relay as usize + 1, Technique::ALL.len());
    }

    #[test]
    fn names_are_words_and_no_two_are_the_same() {
        let mut names: Vec<_> = Technique::ALL.iter().map(|t| t.as_str()).collect();
        let is_word = |name: &&str| name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
        assert!(names.iter().all(is_word));
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), Technique::ALL.len());
    }

    #[test]
    fn a_switch_is_found_by_its_name_and_others_are_listed() {
        assert_eq!("birthday".parse(), Ok(Technique::Birthday));
        assert_eq!("predict".parse(), Ok(Technique::Predicted));
        assert_eq!("host".parse::<Technique>(), Err(UnknownTechnique));
        let sentence = UnknownTechnique.to_string();
        for technique in Technique::ALL {
            let listed = sentence.contains(technique.as_str());
            assert_eq!(listed, technique.has_switch(), "{technique:?}");
        }
    }

    #[test]
    fn a_set_holds_what_was_put_into_it() {
        let two = [Technique::Relay, Technique::Ipv6];
        let set: Techniques = two.into_iter().collect();
        assert_eq!(
            set.iter().collect::<Vec<_>>(),
            [Technique::Ipv6, Technique::Relay]
        );
        assert!(!set.contains(Technique::Host));
        assert_eq!(Techniques::default(), Techniques::NONE);
    }
}
