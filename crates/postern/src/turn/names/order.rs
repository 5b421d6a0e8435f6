//! What the records of DNS say about servers, without asking for them.

use std::collections::BTreeMap;

use postern_wire::uri::{Scheme, Transport};
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

/// A place that an SRV record names (RFC 2782).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Service {
    pub(super) priority: u16,
    pub(super) weight: u16,
    pub(super) port: u16,
    pub(super) target: String,
}

/// What a NAPTR record says (RFC 3403), as text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Rule {
    pub(super) order: u16,
    pub(super) preference: u16,
    pub(super) flags: String,
    pub(super) services: String,
    pub(super) replacement: String,
}

/// What a NAPTR record leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Next {
    /// SRV records at this name, for this transport.
    Services(String, Transport),
    /// Addresses of this name, for this transport.
    Addresses(String, Transport),
    /// More NAPTR records.
    Rules(String),
}

/// The name of the SRV records of a service (RFC 8489 section 8.1, RFC 5928 section 3,
/// RFC 7350 section 4).
pub(super) fn service_name(scheme: Scheme, transport: Transport, host: &str) -> String {
    format!("_{}._{}.{host}.", scheme.as_str(), transport.as_str())
}

/// The transports of a scheme, preferred ones first: TLS passes where DTLS does.
pub(super) fn transports(scheme: Scheme) -> [Transport; 2] {
    if scheme.is_secure() {
        [Transport::Tcp, Transport::Udp]
    } else {
        [Transport::Udp, Transport::Tcp]
    }
}

/// In the order to try them in: by priority, and at random by weight within one (RFC 2782).
/// A single target "." says that there is no such service; it is left out.
pub(super) fn sorted(services: Vec<Service>, seed: [u8; 32]) -> Vec<Service> {
    let mut rng = ChaCha20Rng::from_seed(seed);
    let mut by_priority = BTreeMap::<u16, Vec<Service>>::new();
    for service in services {
        if service.target != "." && service.port != 0 {
            by_priority
                .entry(service.priority)
                .or_default()
                .push(service);
        }
    }
    let mut order = Vec::new();
    for mut group in by_priority.into_values() {
        // Weight 0 first, so that it has a small chance of being chosen.
        group.sort_by_key(|service| service.weight);
        while !group.is_empty() {
            let chosen = choose(&group, rng.next_u64());
            order.push(group.remove(chosen));
        }
    }
    order
}

fn choose(group: &[Service], random: u64) -> usize {
    let weights = group.iter().map(|service| u64::from(service.weight));
    let all: u64 = weights.clone().sum();
    let drawn = random % (all + 1);
    let mut running = 0;
    let mut weights = weights.enumerate().filter(|(_, weight)| {
        running += weight;
        running >= drawn
    });
    weights.next().map_or(0, |(index, _)| index)
}

/// Where rules for TURN lead, in their order (RFC 5928 section 3): one step for each
/// transport that is wanted.
pub(super) fn steps(mut rules: Vec<Rule>, scheme: Scheme, wanted: &[Transport]) -> Vec<Next> {
    rules.sort_by_key(|rule| (rule.order, rule.preference));
    let mut steps = Vec::new();
    for rule in rules {
        let mut names = rule.services.split(':');
        let relay = names
            .next()
            .is_some_and(|s| s.eq_ignore_ascii_case("RELAY"));
        if !relay {
            continue;
        }
        let protocols: Vec<_> = names.map(|name| protocol(scheme, name)).collect();
        let name = rule.replacement.clone();
        let flags = rule.flags.to_ascii_lowercase();
        if flags.is_empty() {
            let any = protocols.is_empty() || protocols.iter().any(Option::is_some);
            steps.extend(any.then_some(Next::Rules(name)));
            continue;
        }
        for transport in protocols.into_iter().flatten() {
            let step = match flags.as_str() {
                "s" => Next::Services(name.clone(), transport),
                "a" => Next::Addresses(name.clone(), transport),
                _ => continue,
            };
            steps.extend(wanted.contains(&transport).then_some(step));
        }
    }
    steps
}

/// The transport behind a protocol's name, if it is one of the scheme.
fn protocol(scheme: Scheme, name: &str) -> Option<Transport> {
    let secure = scheme.is_secure();
    match name.to_ascii_lowercase().as_str() {
        "turn.udp" if !secure => Some(Transport::Udp),
        "turn.tcp" if !secure => Some(Transport::Tcp),
        "turn.tls" if secure => Some(Transport::Tcp),
        "turn.dtls" if secure => Some(Transport::Udp),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(priority: u16, weight: u16, target: &str) -> Service {
        Service {
            priority,
            weight,
            port: 3478,
            target: target.to_owned(),
        }
    }

    fn names(services: Vec<Service>, seed: u8) -> String {
        let sorted = sorted(services, [seed; 32]);
        sorted.into_iter().map(|service| service.target).collect()
    }

    #[test]
    fn lower_priorities_come_first_and_weights_decide_how_often() {
        let mut first = BTreeMap::<String, u32>::new();
        for seed in 0..=255 {
            let group = vec![service(2, 0, "c"), service(1, 10, "a"), service(1, 30, "b")];
            *first.entry(names(group, seed)).or_default() += 1;
        }
        let orders: Vec<_> = first.keys().map(String::as_str).collect();
        assert_eq!(orders, ["abc", "bac"]);
        assert!(first["bac"] > 2 * first["abc"], "{first:?}");
    }

    #[test]
    fn weight_zero_is_tried_too() {
        let group = vec![
            service(1, 0, "a"),
            service(1, 0, "b"),
            service(1, 65_535, "c"),
        ];
        for seed in 0..=255 {
            assert_eq!(names(group.clone(), seed).len(), 3);
        }
    }

    #[test]
    fn the_root_as_target_is_no_service() {
        assert!(sorted(vec![service(0, 0, ".")], [1; 32]).is_empty());
    }

    fn rule(order: u16, preference: u16, flags: &str, services: &str, replacement: &str) -> Rule {
        Rule {
            order,
            preference,
            flags: flags.to_owned(),
            services: services.to_owned(),
            replacement: replacement.to_owned(),
        }
    }

    /// The example of RFC 5928 section 4.1, and more of its kind.
    #[test]
    fn rules_lead_to_services_and_addresses_in_their_order() {
        use Transport::{Tcp, Udp};
        let rules = vec![
            rule(200, 10, "s", "RELAY:turn.tcp:turn.tls", "tcp."),
            rule(100, 20, "A", "RELAY:turn.udp", "udp."),
            rule(100, 10, "", "RELAY:turn.udp:turn.tcp", "more."),
            rule(50, 10, "s", "SIP+D2U", "sip."),
            rule(50, 10, "u", "RELAY:turn.udp", "uri."),
        ];
        let plain = steps(rules.clone(), Scheme::Turn, &[Udp, Tcp]);
        let expected = [
            Next::Rules("more.".to_owned()),
            Next::Addresses("udp.".to_owned(), Udp),
            Next::Services("tcp.".to_owned(), Tcp),
        ];
        assert_eq!(plain, expected);
        let secure = steps(rules.clone(), Scheme::Turns, &[Udp, Tcp]);
        assert_eq!(secure, [Next::Services("tcp.".to_owned(), Tcp)]);
        assert_eq!(steps(rules, Scheme::Turns, &[Udp]), []);
    }
}
