//! Making mappings and deleting them.

use postern::portmap::Arguments;

use super::super::router::{Service, words};
use super::super::{complain, say};
use super::Command;
use super::answers::{protocol, text};

/// How mappings are described unless told.
const DESCRIPTION: &str = "libminiupnpc";

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

impl Command<'_> {
    pub(super) async fn add(&self, any: bool) -> u8 {
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

    pub(super) async fn add_all(&self) -> u8 {
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

    pub(super) async fn delete(&self) -> u8 {
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

    pub(super) async fn delete_range(&self) -> u8 {
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

fn is_number(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_digit())
}
