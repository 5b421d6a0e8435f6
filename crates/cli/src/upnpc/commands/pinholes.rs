//! Ways in through an IPv6 firewall.

use postern::portmap::Arguments;

use super::super::router::{Service, words};
use super::super::{complain, say};
use super::Command;
use super::answers::{flag, number, protocol, text, yes};

impl Command<'_> {
    pub(super) async fn open(&self) -> u8 {
        let words = [0, 1, 2, 3, 4, 5].map(|index| self.word(index).unwrap_or_default());
        let [remote, remote_port, client, port, protocol, lease] = words;
        let Some(number) = protocol_number(protocol) else {
            complain("invalid protocol");
            return 0;
        };
        let pinhole = Arguments::default()
            .with("RemoteHost", remote)
            .with("RemotePort", remote_port)
            .with("Protocol", number)
            .with("InternalPort", port)
            .with("InternalClient", client)
            .with("LeaseTime", lease);
        let place = format!("([{remote}]:{remote_port} -> [{client}]:{port})");
        match self
            .router
            .ask(Service::Firewall, "AddPinhole", pinhole)
            .await
        {
            Ok(answer) => say(&format!(
                "AddPinhole: {place} / Pinhole ID = {}",
                text(&answer, "UniqueID")
            )),
            Err(code) => say(&format!(
                "AddPinhole{place} failed with code {code} ({})",
                self::words(code)
            )),
        }
        0
    }

    pub(super) async fn update(&self) -> u8 {
        let (id, lease) = (
            self.word(0).unwrap_or_default(),
            self.word(1).unwrap_or_default(),
        );
        let unique = || Arguments::default().with("UniqueID", id);
        let checked = self
            .router
            .ask(Service::Firewall, "CheckPinholeWorking", unique())
            .await;
        let works = checked
            .as_ref()
            .is_ok_and(|answer| flag(answer, "IsWorking"));
        say_works(id, works);
        if let Err(code) = checked {
            say_check_failed(code);
        }
        // 709: nothing has come through it so far.
        if !(works || checked.err() == Some(709)) {
            return 0;
        }
        let arguments = unique().with("NewLeaseTime", lease);
        let updated = self
            .router
            .ask(Service::Firewall, "UpdatePinhole", arguments)
            .await;
        say(&format!(
            "UpdatePinhole: Pinhole ID = {id} with Lease Time: {lease}"
        ));
        if let Err(code) = updated {
            say(&format!(
                "UpdatePinhole: ID ({id}) failed with code {code} ({})",
                words(code)
            ));
        }
        0
    }

    pub(super) async fn check(&self) -> u8 {
        for id in self.words {
            let unique = Arguments::default().with("UniqueID", id);
            let action = "CheckPinholeWorking";
            match self.router.ask(Service::Firewall, action, unique).await {
                Ok(answer) => say_works(id, flag(&answer, "IsWorking")),
                Err(code) => say_check_failed(code),
            }
        }
        0
    }

    pub(super) async fn count(&self) -> u8 {
        for id in self.words {
            let unique = Arguments::default().with("UniqueID", id);
            let action = "GetPinholePackets";
            match self.router.ask(Service::Firewall, action, unique).await {
                Ok(answer) => say(&format!(
                    "GetPinholePackets: Pinhole ID = {id} / PinholePackets = {}",
                    number(&answer, "PinholePackets")
                )),
                Err(code) => say(&format!(
                    "GetPinholePackets() failed with code {code} ({})",
                    words(code)
                )),
            }
        }
        0
    }

    pub(super) async fn shut(&self) -> u8 {
        for id in self.words {
            let unique = Arguments::default().with("UniqueID", id);
            let shut = self.router.ask(Service::Firewall, "DeletePinhole", unique);
            let code = shut.await.err().unwrap_or(0);
            say(&format!("UPNP_DeletePinhole() returned : {code}"));
        }
        0
    }

    pub(super) async fn firewall(&self) -> u8 {
        let none = Arguments::default();
        let answer = self
            .router
            .ask(Service::Firewall, "GetFirewallStatus", none);
        let answer = answer.await.unwrap_or_default();
        let enabled = flag(&answer, "FirewallEnabled");
        let allowed = flag(&answer, "InboundPinholeAllowed");
        say(&format!(
            "FirewallEnabled: {} & Inbound Pinhole Allowed: {}",
            u8::from(enabled),
            u8::from(allowed)
        ));
        say(&format!(
            "GetFirewallStatus:\n   Firewall Enabled: {}\n   Inbound Pinhole Allowed: {}",
            yes(enabled),
            yes(allowed)
        ));
        self.traffic().await;
        0
    }

    pub(super) async fn timeout(&self) -> u8 {
        let words = [0, 1, 2, 3, 4].map(|index| self.word(index));
        let [
            Some(remote),
            Some(remote_port),
            Some(client),
            Some(port),
            Some(protocol),
        ] = words
        else {
            complain("Wrong arguments");
            return 0;
        };
        let flow = Arguments::default()
            .with("RemoteHost", remote)
            .with("RemotePort", remote_port)
            .with("Protocol", protocol)
            .with("InternalPort", port)
            .with("InternalClient", client);
        let place = format!("([{client}]:{port} -> [{remote}]:{remote_port})");
        let action = "GetOutboundPinholeTimeout";
        match self.router.ask(Service::Firewall, action, flow).await {
            Ok(answer) => say(&format!(
                "{action}: {place} / Timeout = {}",
                number(&answer, "OutboundPinholeTimeout")
            )),
            Err(code) => say(&format!(
                "{action}{place} failed with code {code} ({})",
                self::words(code)
            )),
        }
        0
    }
}

fn say_works(id: &str, works: bool) {
    let works = yes(works);
    say(&format!(
        "CheckPinholeWorking: Pinhole ID = {id} / IsWorking = {works}"
    ));
}

fn say_check_failed(code: i32) {
    let words = words(code);
    say(&format!(
        "CheckPinholeWorking() failed with code {code} ({words})"
    ));
}

/// The number of a protocol that is told as such or by name.
fn protocol_number(text: &str) -> Option<String> {
    match protocol(text) {
        Some("TCP") => Some("6".to_owned()),
        Some(_) => Some("17".to_owned()),
        None => text
            .parse::<u8>()
            .ok()
            .filter(|n| *n != 0)
            .map(|n| n.to_string()),
    }
}
