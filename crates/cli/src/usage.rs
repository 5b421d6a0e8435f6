//! Reading the command line, and saying what is wrong with it.

use std::ffi::OsString;
use std::process::ExitCode;

use clap::Parser;
use clap::error::ErrorKind;

use crate::Arguments;
use crate::output;

/// The exit code for a wrong command line is clap's, too.
const USAGE: u8 = 2;

/// Whether a program listens. It must hear of a wrong command line as well, in which
/// nothing but this word may be in its place.
pub(crate) fn wants_json(arguments: impl Iterator<Item = OsString>) -> bool {
    let mut options = arguments.take_while(|argument| argument != "--");
    options.any(|argument| argument == "--json")
}

/// Reads the command line. Help and the version are printed here; so is what is wrong.
pub(crate) fn parse(json: bool) -> Result<Arguments, ExitCode> {
    Arguments::try_parse().map_err(|error| {
        let wrong = error.use_stderr();
        if wrong && json {
            output::report_to_programs("usage", &sentence(&error));
        }
        let _ = error.print();
        if wrong {
            ExitCode::from(USAGE)
        } else {
            ExitCode::SUCCESS
        }
    })
}

/// The error in one line, without the usage that follows it for people.
pub(crate) fn sentence(error: &clap::Error) -> String {
    if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        return "a command is missing".to_owned();
    }
    let text = error.to_string();
    let text = text.split("\n\n").next().unwrap_or_default();
    let text = text.trim_start_matches("error: ");
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn complaint(line: &str) -> String {
        sentence(&Arguments::try_parse_from(line.split(' ')).unwrap_err())
    }

    #[test]
    fn programs_hear_in_a_line_what_is_wrong() {
        assert_eq!(
            complaint("postern send --json"),
            "the following required arguments were not provided: <PATH>..."
        );
        assert_eq!(
            complaint("postern receive --jsn"),
            "unexpected argument '--jsn' found"
        );
        assert_eq!(complaint("postern"), "a command is missing");
    }

    #[test]
    fn json_is_recognised_wherever_an_option_may_be() {
        let wants = |line: &str| wants_json(line.split(' ').map(OsString::from));
        assert!(wants("postern send --bad --json x"));
        assert!(!wants("postern send -- --json"));
    }

    #[test]
    fn the_definition_of_the_command_line_is_consistent() {
        <Arguments as clap::CommandFactory>::command().debug_assert();
    }
}
