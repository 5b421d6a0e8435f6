//! The table of a router.

use postern::portmap::{Arguments, listing_from_xml};

use super::super::router::{Service, words};
use super::super::{plain, say};
use super::Command;
use super::answers::text;

/// The most entries of a table that are read: some have no end.
const MAX_ENTRIES: usize = 1000;
const HEADING: &str = " i protocol exPort->inAddr:inPort description remoteHost leaseTime";

impl Command<'_> {
    pub(super) async fn list(&self) -> u8 {
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

    pub(super) async fn list_at_once(&self) -> u8 {
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
}
