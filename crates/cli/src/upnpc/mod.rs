//! The program under the name `upnpc`: the options of that of miniupnpc 2.2.4, and its lines.
//!
//! Scripts read them. What is searched and asked is searched and asked as `postern map` does
//! it: only on the link, bounded, and without waiting for two seconds.

mod commands;
mod router;

use std::ffi::OsString;
use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use postern::portmap::{Client, Config, HttpUrl, Protocol, Protocols, StartError};

use commands::Command;
use router::{Igd, Router};

/// The name.
const NAME: &str = "upnpc";
const BANNER: &str = "\
upnpc : miniupnpc library test client, version 2.2.4.
 (c) 2005-2022 Thomas Bernard.
Go to http://miniupnp.free.fr/ or https://miniupnp.tuxfamily.org/
for more information.
";
/// What follows the name on each line of it stands for is `{}`.
const USAGE: &str = include_str!("usage.txt");
const NO_DEVICE: &str = "No IGD UPnP Device found on the network !";
const NO_GATEWAY: &str = "No valid UPNP Internet Gateway Device found.";

/// Does what `upnpc` does if this program is called so.
pub(crate) fn if_called(mut arguments: impl Iterator<Item = OsString>) -> Option<ExitCode> {
    let program = arguments.next()?;
    let stem = Path::new(&program).file_stem()?;
    if stem != NAME {
        return None;
    }
    let program = program.to_string_lossy().into_owned();
    let arguments: Vec<String> = arguments
        .map(|argument| argument.to_string_lossy().into_owned())
        .collect();
    Some(ExitCode::from(run(&program, &arguments)))
}

fn run(program: &str, arguments: &[String]) -> u8 {
    say_text(BANNER);
    let Some(options) = Options::parse(arguments) else {
        complain_text(&USAGE.replace("{}", program));
        return 1;
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    match runtime {
        Ok(runtime) => runtime.block_on(obey(&options)),
        Err(error) => {
            complain(&error.to_string());
            1
        }
    }
}

/// What the command line asks for.
#[derive(Debug, Default, PartialEq, Eq)]
struct Options {
    url: Option<String>,
    interface: Option<String>,
    ipv6: bool,
    /// Whether a gateway that is not connected is asked nonetheless.
    ignore: bool,
    description: Option<String>,
    command: char,
    /// What follows the command, whatever it looks like.
    words: Vec<String>,
}

impl Options {
    /// Reads the options up to the command. Only the first letter of each counts.
    fn parse(arguments: &[String]) -> Option<Self> {
        let mut options = Self::default();
        let mut rest = arguments.iter();
        while let Some(argument) = rest.next() {
            if argument == "--help" || argument == "-h" {
                return None;
            }
            let Some(letters) = argument.strip_prefix('-') else {
                complain(&format!("option '{argument}' invalid"));
                continue;
            };
            match letters.chars().next()? {
                'u' => options.url = rest.next().cloned(),
                'm' => options.interface = rest.next().cloned(),
                'e' => options.description = rest.next().cloned(),
                '6' => options.ipv6 = true,
                'i' => options.ignore = true,
                'z' => check_port(rest.next()?)?,
                // There is neither a daemon to ask nor a choice of how far a search goes.
                'p' | 't' => drop(rest.next()?),
                command => {
                    options.command = command;
                    options.words = rest.cloned().collect();
                    return options.has_enough().then_some(options);
                }
            }
        }
        None
    }

    /// Whether as much follows the command as is checked before anything is done.
    fn has_enough(&self) -> bool {
        let least = match self.command {
            'a' => 4,
            'A' => 6,
            'U' => 2,
            'D' => 1,
            _ => 0,
        };
        self.words.len() >= least
    }
}

/// The port that searches were sent from is of no use to us, and has to be one.
fn check_port(text: &str) -> Option<()> {
    let port = text.parse::<u16>().ok();
    if port.is_some_and(|port| port <= 1 || port >= 1024) {
        return Some(());
    }
    complain(&format!("Invalid localport '{text}'"));
    None
}

/// The exit code.
async fn obey(options: &Options) -> u8 {
    let client = match start(options).await {
        Ok(client) => client,
        Err(why) => {
            complain(why);
            return 1;
        }
    };
    let found = client.gateways().await.unwrap_or_default();
    if options.url.is_none() {
        if found.is_empty() {
            complain(NO_DEVICE);
            return 1;
        }
        say("List of UPNP devices found on the network :");
        for gateway in &found {
            let location = gateway.location.as_ref().map(ToString::to_string);
            say(&format!(" desc: {}", plain(&location.unwrap_or_default())));
            say(&format!(" st: {}\n", plain(router::target(gateway))));
        }
    }
    let Some(router) = Router::new(client, &found, options.url.is_some()) else {
        complain(NO_GATEWAY);
        return 1;
    };
    let may_go_on = introduce(&router, options.ignore);
    if !may_go_on {
        complain(NO_GATEWAY);
        return 1;
    }
    say(&format!("Local LAN ip address : {}", router.own()));
    let command = Command {
        router: &router,
        description: options.description.as_deref(),
        words: &with_own_address(options, &router.own()),
    };
    command.obey(options.command).await
}

async fn start(options: &Options) -> Result<Client, &'static str> {
    let location = match &options.url {
        Some(url) => Some(url.parse::<HttpUrl>().map_err(|_| NO_GATEWAY)?),
        None => None,
    };
    let ipv6 = options.ipv6 || location.as_ref().is_some_and(|url| url.address.is_ipv6());
    let config = Config {
        interface: options.interface.clone(),
        location,
        pinholes: ipv6,
        protocols: Some(Protocols::only(Protocol::Upnp)),
        ..Config::default()
    };
    Client::start(config).await.map_err(|error| {
        if matches!(error, StartError::Guarded) {
            complain(&error.to_string());
        }
        if matches!(error, StartError::UnknownInterface(_)) {
            complain("ioctl(...SIOCGIFADDR...): No such device");
        }
        NO_DEVICE
    })
}

/// Says what kind of gateway it is; whether it can be used.
fn introduce(router: &Router, ignore: bool) -> bool {
    let control = plain(&router.control());
    if router.igd == Igd::Valid {
        say(&format!("Found valid IGD : {control}"));
        return true;
    }
    say(&format!("Found a (not connected?) IGD : {control}"));
    if ignore {
        say("Trying to continue anyway");
    }
    ignore
}

/// The words of the command; `@` in place of an address is ours.
fn with_own_address(options: &Options, own: &str) -> Vec<String> {
    let mut words = options.words.clone();
    let place = match options.command {
        'a' | 'n' => 0,
        'A' | 'G' => 2,
        _ => return words,
    };
    if let Some(word) = words.get_mut(place).filter(|word| *word == "@") {
        *word = own.to_owned();
    }
    words
}

/// Text of a stranger, harmless to a terminal.
fn plain(text: &str) -> String {
    crate::output::harmless_line(text)
}

fn say(line: &str) {
    say_text(&format!("{line}\n"));
}

fn say_text(text: &str) {
    let _ = io::stdout().lock().write_all(text.as_bytes());
}

fn complain(line: &str) {
    complain_text(&format!("{line}\n"));
}

fn complain_text(text: &str) {
    let _ = io::stderr().lock().write_all(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Option<Options> {
        let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
        Options::parse(&words)
    }

    #[test]
    fn what_follows_the_command_belongs_to_it() {
        let options = parse("-e text -6 -u http://192.168.1.1/ -i -a @ 1 2 tcp -e no").unwrap();
        let expected = Options {
            url: Some("http://192.168.1.1/".to_owned()),
            interface: None,
            ipv6: true,
            ignore: true,
            description: Some("text".to_owned()),
            command: 'a',
            words: ["@", "1", "2", "tcp", "-e", "no"].map(str::to_owned).into(),
        };
        assert_eq!(options, expected);
        assert_eq!(
            with_own_address(&options, "192.168.1.10")[0],
            "192.168.1.10"
        );
    }

    #[test]
    fn without_a_command_or_enough_words_there_is_the_usage() {
        for line in [
            "", "-e text", "-a @ 1 2", "-h", "-s -h", "-U 1", "-", "-z 5 -s",
        ] {
            let parsed = parse(line);
            // The first letter decides, and what follows the command is not looked at.
            assert_eq!(parsed.is_some(), line == "-s -h", "{line}");
        }
        assert_eq!(parse("-sfoo").unwrap().command, 's');
    }

    #[test]
    fn other_names_are_other_programs() {
        let called = |name: &str| if_called([OsString::from(name)].into_iter()).is_some();
        assert!(!called("/usr/bin/postern"));
        assert!(!called("upnpcx"));
        assert!(called("/usr/local/bin/upnpc"));
    }
}
