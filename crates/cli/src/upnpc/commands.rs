//! The commands of `upnpc`, each with its lines.

use std::time::{SystemTime, UNIX_EPOCH};

use postern::portmap::{Arguments, listing_from_xml};

use super::router::{Router, Service, words};
use super::{complain, plain, say};

/// The most entries of a table that are read: some have no end.
const MAX_ENTRIES: usize = 1000;
/// How mappings are described unless told.
const DESCRIPTION: &str = "libminiupnpc";
const HEADING: &str = " i protocol exPort->inAddr:inPort description remoteHost leaseTime";

/// A mapping to make.
#[derive(Debug, Clone, Copy)]
struct Wanted<'a> {
    client: &'a str,
    port: &'a str,
    external: &'a str,
    protocol: &'a str,
    lease: &'a str,
    remote: &'a str,
    any: bool,
}

/// What is to be done, and with what.
pub(super) struct Command<'a> {
    pub(super) router: &'a Router,
    pub(super) description: Option<&'a str>,
    pub(super) words: &'a [String],
}

impl Command<'_> {
    /// Does it; the exit code.
    pub(super) async fn obey(&self, letter: char) -> u8 {
        match letter {
            's' => self.status().await,
            'l' => self.list().await,
            'L' => self.list_at_once().await,
            'a' => self.add(false).await,
            'n' => self.add(true).await,
            'r' => self.add_all().await,
            'd' => self.delete().await,
            'N' => self.delete_range().await,
            'A' => self.open().await,
            'U' => self.update().await,
            'C' => self.check().await,
            'K' => self.count().await,
            'D' => self.shut().await,
            'S' => self.firewall().await,
            'G' => self.timeout().await,
            'P' => {
                say("Presentation URL found:");
                say(&format!("            {}", plain(&self.router.presentation)));
                0
            }
            other => {
                complain(&format!("Unknown switch -{other}"));
                1
            }
        }
    }

    fn word(&self, index: usize) -> Option<&str> {
        self.words.get(index).map(String::as_str)
    }

    async fn status(&self) -> u8 {
        self.infos().await;
        self.traffic().await;
        0
    }

    /// What the connection is, and is like.
    async fn infos(&self) {
        let none = Arguments::default;
        let ask = |action| self.router.ask(Service::Connection, action, none());
        match ask("GetConnectionTypeInfo").await {
            Ok(answer) => say(&format!(
                "Connection Type : {}",
                text(&answer, "NewConnectionType")
            )),
            Err(_) => say("GetConnectionTypeInfo failed."),
        }
        let mut uptime = 0;
        match ask("GetStatusInfo").await {
            Ok(answer) => {
                uptime = number(&answer, "NewUptime");
                let status = text(&answer, "NewConnectionStatus");
                let error = text(&answer, "NewLastConnectionError");
                say(&format!(
                    "Status : {status}, uptime={uptime}s, LastConnectionError : {error}"
                ));
            }
            Err(_) => say("GetStatusInfo failed."),
        }
        if let Some(time) = started(uptime) {
            say(&format!("  Time started : {time}"));
        }
        self.rates().await;
        match ask("GetExternalIPAddress").await {
            Ok(answer) if text(&answer, "NewExternalIPAddress").is_empty() => {
                say("GetExternalIPAddress failed. (empty string)");
            }
            Ok(answer) => say(&format!(
                "ExternalIPAddress = {}",
                text(&answer, "NewExternalIPAddress")
            )),
            Err(code) => say(&format!("GetExternalIPAddress failed. (errorcode={code})")),
        }
    }

    async fn rates(&self) {
        let action = "GetCommonLinkProperties";
        let ask = self
            .router
            .ask(Service::Interface, action, Arguments::default());
        let Ok(answer) = ask.await else {
            return say("GetLinkLayerMaxBitRates failed.");
        };
        let down = rate(number(&answer, "NewLayer1DownstreamMaxBitRate"));
        let up = rate(number(&answer, "NewLayer1UpstreamMaxBitRate"));
        say(&format!("MaxBitRateDown : {down}   MaxBitRateUp {up}"));
    }

    async fn traffic(&self) {
        let mut counts = [0; 4];
        let names = [
            "BytesSent",
            "BytesReceived",
            "PacketsSent",
            "PacketsReceived",
        ];
        for (count, name) in counts.iter_mut().zip(names) {
            let action = format!("GetTotal{name}");
            let ask = self
                .router
                .ask(Service::Interface, &action, Arguments::default());
            *count = match ask.await {
                Ok(answer) => number(&answer, &format!("NewTotal{name}")),
                Err(code) if code < 0 => code.cast_unsigned(),
                Err(_) => 0,
            };
        }
        let [sent, received, packets_sent, packets_received] = counts;
        say(&format!("Bytes:   Sent: {sent:8}\tRecv: {received:8}"));
        say(&format!(
            "Packets: Sent: {packets_sent:8}\tRecv: {packets_received:8}"
        ));
    }

    async fn list(&self) -> u8 {
        self.infos().await;
        say(HEADING);
        for index in 0..MAX_ENTRIES {
            let action = "GetGenericPortMappingEntry";
            let arguments = Arguments::default().with("NewPortMappingIndex", index);
            let answer = self
                .router
                .ask(Service::Connection, action, arguments)
                .await;
            match answer {
                Ok(entry) => {
                    let of = |name| text(&entry, name);
                    let line = format!(
                        "{index:2} {} {:>5}->{}:{:<5} '{}' '{}' {}",
                        of("NewProtocol"),
                        of("NewExternalPort"),
                        of("NewInternalClient"),
                        of("NewInternalPort"),
                        of("NewPortMappingDescription"),
                        of("NewRemoteHost"),
                        of("NewLeaseDuration"),
                    );
                    say(&line);
                }
                Err(code) => {
                    say(&format!(
                        "GetGenericPortMappingEntry() returned {code} ({})",
                        words(code)
                    ));
                    break;
                }
            }
        }
        0
    }

    async fn list_at_once(&self) -> u8 {
        let mut index = 0;
        for (protocol, heading) in [("TCP", true), ("UDP", false)] {
            let arguments = Arguments::default()
                .with("NewStartPort", 0)
                .with("NewEndPort", 65_535)
                .with("NewProtocol", protocol)
                .with("NewManage", 1)
                .with("NewNumberOfPorts", MAX_ENTRIES);
            let action = "GetListOfPortMappings";
            let answer = self
                .router
                .ask(Service::Connection, action, arguments)
                .await;
            let listing = match &answer {
                Ok(answer) => answer.get("NewPortListing").unwrap_or_default(),
                Err(code) => {
                    let words = words(*code);
                    say(&format!(
                        "GetListOfPortMappings() returned {code} ({words})"
                    ));
                    continue;
                }
            };
            if heading {
                say(HEADING);
            }
            // The last one first: scripts know it so.
            let entries = listing_from_xml(listing).unwrap_or_default();
            for entry in entries.iter().rev() {
                say(&format!(
                    "{index:2} {} {:>5}->{}:{:<5} '{}' '{}' {}",
                    entry.key.transport.upper(),
                    entry.key.external_port,
                    plain(&entry.internal_client),
                    entry.internal_port,
                    plain(&entry.description),
                    plain(&entry.key.remote_host),
                    entry.lease,
                ));
                index += 1;
            }
        }
        0
    }

    async fn add(&self, any: bool) -> u8 {
        let words = [0, 1, 2, 3].map(|index| self.word(index));
        let [Some(client), Some(port), Some(external), Some(protocol)] = words else {
            complain("Wrong arguments");
            return 2;
        };
        // A lease, a remote host, or one and the other.
        let (lease, remote) = match (self.word(4), self.word(5)) {
            (Some(lease), remote) if is_number(lease) => (lease, remote),
            (Some(remote), _) => ("0", Some(remote)),
            (None, _) => ("0", None),
        };
        let wanted = Wanted {
            client,
            port,
            external,
            protocol,
            lease,
            remote: remote.unwrap_or_default(),
            any,
        };
        self.map(wanted).await
    }

    async fn map(&self, wanted: Wanted<'_>) -> u8 {
        let Some(protocol) = protocol(wanted.protocol) else {
            complain("invalid protocol");
            return 2;
        };
        let action = "GetExternalIPAddress";
        let ask = |action, arguments| self.router.ask(Service::Connection, action, arguments);
        let outside = match ask(action, Arguments::default()).await {
            Ok(answer) => {
                let address = text(&answer, "NewExternalIPAddress");
                say(&format!("ExternalIPAddress = {address}"));
                address
            }
            Err(_) => {
                say("GetExternalIPAddress failed.");
                String::new()
            }
        };
        let action = if wanted.any {
            "AddAnyPortMapping"
        } else {
            "AddPortMapping"
        };
        let mut external = wanted.external.to_owned();
        match ask(action, self.mapping(&wanted, protocol)).await {
            Ok(answer) if wanted.any => external = reserved(&answer).unwrap_or(external),
            Ok(_) => {}
            Err(code) => {
                say(&format!(
                    "{action}({external}, {}, {}) failed with code {code} ({})",
                    wanted.port,
                    wanted.client,
                    words(code)
                ));
                if !wanted.any {
                    return 2;
                }
            }
        }
        let place = key(wanted.remote, &external, protocol);
        match ask("GetSpecificPortMappingEntry", place).await {
            Ok(entry) => {
                let (client, port) = (
                    text(&entry, "NewInternalClient"),
                    text(&entry, "NewInternalPort"),
                );
                let lease = text(&entry, "NewLeaseDuration");
                say(&format!("InternalIP:Port = {client}:{port}"));
                say(&format!(
                    "external {outside}:{external} {protocol} is redirected to internal \
                     {client}:{port} (duration={lease})"
                ));
                0
            }
            Err(code) => {
                say(&format!(
                    "GetSpecificPortMappingEntry() failed with code {code} ({})",
                    words(code)
                ));
                2
            }
        }
    }

    fn mapping(&self, wanted: &Wanted<'_>, protocol: &str) -> Arguments {
        let description = self.description.unwrap_or(DESCRIPTION);
        key(wanted.remote, wanted.external, protocol)
            .with("NewInternalPort", wanted.port)
            .with("NewInternalClient", wanted.client)
            .with("NewEnabled", 1)
            .with("NewPortMappingDescription", description)
            .with("NewLeaseDuration", wanted.lease)
    }

    async fn add_all(&self) -> u8 {
        let own = self.router.own();
        let mut code = 0;
        let mut index = 0;
        while let Some(port) = self.word(index) {
            if !is_number(port) {
                complain(&format!("command -r : {port} is not an port number"));
                return 1;
            }
            let second = self.word(index + 1);
            let (external, protocol, used) = match second.filter(|word| is_number(word)) {
                Some(external) => (external, self.word(index + 2), 3),
                None => (port, second, 2),
            };
            index += used;
            let Some(protocol) = protocol else {
                complain("Wrong arguments");
                code = 2;
                continue;
            };
            let wanted = Wanted {
                client: &own,
                port,
                external,
                protocol,
                lease: "0",
                remote: "",
                any: false,
            };
            if self.map(wanted).await != 0 {
                code = 2;
            }
        }
        code
    }

    async fn delete(&self) -> u8 {
        let (Some(external), Some(protocol)) = (self.word(0), self.word(1)) else {
            complain("invalid arguments");
            return 2;
        };
        let Some(protocol) = self::protocol(protocol) else {
            complain("protocol invalid");
            return 2;
        };
        let place = key(self.word(2).unwrap_or_default(), external, protocol);
        self.remove("DeletePortMapping", place).await
    }

    async fn delete_range(&self) -> u8 {
        if self.words.len() < 3 {
            complain("too few arguments");
        }
        let words = [0, 1, 2].map(|index| self.word(index));
        let [Some(first), Some(last), Some(protocol)] = words else {
            complain("invalid arguments");
            return 2;
        };
        let Some(protocol) = self::protocol(protocol) else {
            complain("protocol invalid");
            return 2;
        };
        let range = Arguments::default()
            .with("NewStartPort", first)
            .with("NewEndPort", last)
            .with("NewProtocol", protocol)
            .with("NewManage", self.word(3).unwrap_or("0"));
        self.remove("DeletePortMappingRange", range).await
    }

    async fn remove(&self, action: &str, arguments: Arguments) -> u8 {
        match self
            .router
            .ask(Service::Connection, action, arguments)
            .await
        {
            Ok(_) => {
                say(&format!("UPNP_{action}() returned : 0"));
                0
            }
            Err(code) => {
                say(&format!("UPNP_{action}() failed with code : {code}"));
                2
            }
        }
    }
}

/// Pinholes.
impl Command<'_> {
    async fn open(&self) -> u8 {
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

    async fn update(&self) -> u8 {
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

    async fn check(&self) -> u8 {
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

    async fn count(&self) -> u8 {
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

    async fn shut(&self) -> u8 {
        for id in self.words {
            let unique = Arguments::default().with("UniqueID", id);
            let shut = self.router.ask(Service::Firewall, "DeletePinhole", unique);
            let code = shut.await.err().unwrap_or(0);
            say(&format!("UPNP_DeletePinhole() returned : {code}"));
        }
        0
    }

    async fn firewall(&self) -> u8 {
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

    async fn timeout(&self) -> u8 {
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

/// What AddAnyPortMapping says is mapped, if it says so.
fn reserved(answer: &Arguments) -> Option<String> {
    let port = text(answer, "NewReservedPort");
    (!port.is_empty()).then_some(port)
}

fn key(remote: &str, external: &str, protocol: &str) -> Arguments {
    Arguments::default()
        .with("NewRemoteHost", remote)
        .with("NewExternalPort", external)
        .with("NewProtocol", protocol)
}

fn text(answer: &Arguments, name: &str) -> String {
    plain(answer.get(name).unwrap_or_default())
}

/// The number at the beginning of a value, as C reads it.
fn number(answer: &Arguments, name: &str) -> u32 {
    let text = answer.get(name).unwrap_or_default().trim();
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    // Some count further than 32 bits.
    let number = text
        .get(..digits)
        .and_then(|digits| digits.parse::<u64>().ok());
    number.map_or(0, |number| u32::try_from(number).unwrap_or(u32::MAX))
}

fn flag(answer: &Arguments, name: &str) -> bool {
    number(answer, name) != 0
}

const fn yes(yes: bool) -> &'static str {
    if yes { "Yes" } else { "No" }
}

fn is_number(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_digit())
}

/// The protocol as gateways want it.
fn protocol(text: &str) -> Option<&'static str> {
    ["TCP", "UDP"]
        .into_iter()
        .find(|name| name.eq_ignore_ascii_case(text))
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

/// Bits a second, and the same for people.
fn rate(bits: u32) -> String {
    match bits {
        1_000_000.. => {
            let (whole, tenth) = (bits / 1_000_000, bits / 100_000 % 10);
            format!("{bits} bps ({whole}.{tenth} Mbps)")
        }
        1000.. => format!("{bits} bps ({} Kbps)", bits / 1000),
        _ => format!("{bits} bps"),
    }
}

/// When that was, as C writes it, unless it is zero.
fn started(uptime: u32) -> Option<String> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).ok()?;
    let then = i64::try_from(now.as_secs()).ok()? - i64::from(uptime);
    let time = postern::local_time(then).filter(|_| uptime > 0)?;
    let weekday = ["Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"].get(time.weekday)?;
    let month = [
        "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
    ]
    .get(time.month)?;
    Some(format!(
        "{weekday} {month} {:2} {:02}:{:02}:{:02} {}",
        time.day, time.hour, time.minute, time.second, time.year
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_told_for_people_too() {
        assert_eq!(rate(1_410_065_408), "1410065408 bps (1410.0 Mbps)");
        assert_eq!(rate(56_000), "56000 bps (56 Kbps)");
        assert_eq!(rate(0), "0 bps");
    }

    #[test]
    fn numbers_are_read_as_far_as_they_go() {
        let answer = Arguments::default()
            .with("a", "12 s")
            .with("b", "99999999999");
        assert_eq!((number(&answer, "a"), number(&answer, "b")), (12, u32::MAX));
        assert_eq!(number(&answer, "c"), 0);
    }
}
