//! The configuration file of `postern server`: its keys are the names of the options, and
//! what stands on the command line wins.

use std::collections::BTreeMap;
use std::error::Error;
use std::ffi::OsString;
use std::path::Path;

use clap::error::{ContextKind, ContextValue};
use clap::parser::ValueSource;
use clap::{Arg, ArgAction, Args, Command, FromArgMatches};
use toml::{Spanned, Value};

use super::Arguments;

/// Options that mean nothing in a file.
const NOT_IN_A_FILE: [&str; 2] = ["config", "json"];

/// What is wrong with a file.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Complaint {
    /// Where, if it is one place.
    line: Option<usize>,
    what: String,
}

impl Complaint {
    /// The sentence for people.
    pub(super) fn about(&self, path: &Path) -> String {
        let (path, what) = (path.display(), &self.what);
        match self.line {
            Some(line) => format!("{path}, line {line}: {what}"),
            None => format!("{path}: {what}"),
        }
    }
}

type Entries = BTreeMap<Spanned<String>, Spanned<Value>>;

/// What the file and the command line together say; `given` are the arguments behind
/// `server`.
pub(super) fn merge(given: &[OsString], text: &str) -> Result<Arguments, Complaint> {
    let entries: Entries = toml::from_str(text).map_err(|error| Complaint {
        line: error.span().map(|span| line_at(text, span.start)),
        what: error.message().to_owned(),
    })?;
    let command = Arguments::augment_args(Command::new("server").no_binary_name(true));
    let lines = entries.keys().map(|key| {
        let line = line_at(text, key.span().start);
        (key.get_ref().as_str(), line)
    });
    let lines: BTreeMap<_, _> = lines.collect();
    let known = command.clone().try_get_matches_from(given);
    let mut all = Vec::new();
    for (key, value) in &entries {
        let complain = |what: String| Complaint {
            line: lines.get(key.get_ref().as_str()).copied(),
            what: format!("{}: {what}", key.get_ref()),
        };
        let option = option(&command, key.get_ref()).ok_or_else(|| {
            complain("there is no such option; see postern server --help".to_owned())
        })?;
        let options = as_options(option, value.get_ref()).map_err(complain)?;
        let id = option.get_id().as_str();
        let is_given = known
            .as_ref()
            .is_ok_and(|known| known.value_source(id) == Some(ValueSource::CommandLine));
        if !is_given {
            all.extend(options);
        }
    }
    all.extend_from_slice(given);
    let matches = command.try_get_matches_from(all);
    matches
        .and_then(|matches| Arguments::from_arg_matches(&matches))
        .map_err(|error| complaint(&error, &lines))
}

fn option<'a>(command: &'a Command, name: &str) -> Option<&'a Arg> {
    let mut options = command.get_arguments();
    options.find(|option| option.get_long() == Some(name) && !NOT_IN_A_FILE.contains(&name))
}

/// The options of the command line that say the same.
fn as_options(option: &Arg, value: &Value) -> Result<Vec<OsString>, String> {
    let name = option.get_long().unwrap_or_default();
    let write = |value: &Value| Some(format!("--{name}={}", scalar(value)?).into());
    if !option.get_action().takes_values() {
        let switched = value.as_bool().ok_or("it must be true or false")?;
        return Ok(if switched {
            vec![format!("--{name}").into()]
        } else {
            Vec::new()
        });
    }
    let appends = matches!(option.get_action(), ArgAction::Append);
    let options: Option<Vec<_>> = match value.as_array() {
        Some(values) if appends => values.iter().map(write).collect(),
        Some(_) => return Err("it can have one value only, without brackets".to_owned()),
        None => write(value).map(|one| vec![one]),
    };
    options.ok_or_else(|| "it must be text in quotes, or a whole number".to_owned())
}

fn scalar(value: &Value) -> Option<String> {
    let number = value.as_integer().map(|number| number.to_string());
    value.as_str().map(str::to_owned).or(number)
}

/// What clap says, without the value, which may be a secret.
fn complaint(error: &clap::Error, lines: &BTreeMap<&str, usize>) -> Complaint {
    let argument = error.get(ContextKind::InvalidArg).and_then(name_of);
    let place = argument.and_then(|name| Some((name, *lines.get(name)?)));
    let why = error
        .source()
        .map_or_else(|| "it has a wrong value".to_owned(), ToString::to_string);
    match place.filter(|_| error.source().is_some()) {
        Some((name, line)) => Complaint {
            line: Some(line),
            what: format!("{name}: {why}"),
        },
        None => Complaint {
            line: None,
            what: crate::usage::sentence(error),
        },
    }
}

/// The name in `--name <VALUE>`.
fn name_of(value: &ContextValue) -> Option<&str> {
    let ContextValue::String(text) = value else {
        return None;
    };
    text.split_whitespace().next()?.strip_prefix("--")
}

fn line_at(text: &str, offset: usize) -> usize {
    let before = text.bytes().take(offset);
    before.filter(|byte| *byte == b'\n').count() + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(given: &str, text: &str) -> Result<Arguments, String> {
        let given: Vec<_> = given.split_whitespace().map(OsString::from).collect();
        merge(&given, text).map_err(|complaint| complaint.about(Path::new("s.toml")))
    }

    fn complaint(text: &str) -> String {
        read("--config s.toml", text).unwrap_err()
    }

    #[test]
    fn a_file_says_what_options_say() {
        let text = "listen = ['203.0.113.5', '2001:db8::5']\nport = 443\nrelay = true\n\
                    user = ['alice:a:b', 'bob:c']\nrelay-ports = '1000-2000'\nquota-user = 3\n";
        let read = read("--config s.toml", text).unwrap();
        let line = "--config s.toml --listen 203.0.113.5 --listen 2001:db8::5 --port 443 --relay \
                    --user alice:a:b --user bob:c --relay-ports 1000-2000 --quota-user 3";
        let told = self::read(line, "").unwrap();
        assert_eq!(format!("{read:?}"), format!("{told:?}"));
    }

    #[test]
    fn the_command_line_wins() {
        let text = "listen = '203.0.113.5'\nport = 443\nstun-port = 1\nuser = 'alice:a'\n";
        let read = read("--config s.toml --port 8443 --user bob:b", text).unwrap();
        assert_eq!((read.port, read.stun_port), (8443, 1));
        assert_eq!(read.relay.user, [("bob".to_owned(), "b".to_owned())]);
    }

    #[test]
    fn what_is_wrong_is_said_with_its_line() {
        let begin = "listen = '203.0.113.5'\n\n";
        let cases = [
            (
                "prot = 1",
                "s.toml, line 3: prot: there is no such option; see postern server --help",
            ),
            (
                "json = true",
                "s.toml, line 3: json: there is no such option; see postern server --help",
            ),
            (
                "port = 65536",
                "s.toml, line 3: port: 65536 is not in 0..=65535",
            ),
            (
                "port = 1.5",
                "s.toml, line 3: port: it must be text in quotes, or a whole number",
            ),
            (
                "port = [1]",
                "s.toml, line 3: port: it can have one value only, without brackets",
            ),
            (
                "relay = 'yes'",
                "s.toml, line 3: relay: it must be true or false",
            ),
            (
                "user = ['alice:a', 'sesame']",
                "s.toml, line 3: user: not NAME:PASSWORD",
            ),
            (
                "deny-peer = '10.0.0.0/33'",
                "s.toml, line 3: deny-peer: not an address or ADDRESS/PREFIX-LENGTH",
            ),
        ];
        for (line, expected) in cases {
            assert_eq!(complaint(&format!("{begin}{line}\n")), expected);
        }
        let twice = complaint("port = 1\nport = 2\n");
        assert!(
            twice.starts_with("s.toml, line 2: duplicate key"),
            "{twice}"
        );
    }

    #[test]
    fn what_is_missing_is_said_too() {
        let cert = complaint("listen = '203.0.113.5'\ncert = 'a.pem'\n");
        assert_eq!(
            cert,
            "s.toml: the following required arguments were not provided: --key <FILE>"
        );
        assert!(
            read("--config s.toml", "port = 1\n")
                .unwrap()
                .listen
                .is_empty()
        );
    }
}
