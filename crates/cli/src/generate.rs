//! `postern completions` and `postern man`: made from the definitions that the help is
//! made from.

use std::io::{self, Write};

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use crate::failure::Failure;

/// Options of `postern completions`.
#[derive(Debug, Args)]
pub(crate) struct Completions {
    /// The shell
    #[arg(value_name = "SHELL")]
    shell: Shell,
}

/// Options of `postern man`.
#[derive(Debug, Args)]
pub(crate) struct Man {
    /// The command that the page is about; without it, the whole program
    #[arg(value_name = "COMMAND")]
    command: Option<String>,
}

/// Prints the completions for a shell.
pub(crate) fn completions(arguments: &Completions) -> Result<(), Failure> {
    let mut script = Vec::new();
    let mut command = crate::Arguments::command();
    clap_complete::generate(arguments.shell, &mut command, "postern", &mut script);
    print(&script)
}

/// Prints a manual page.
pub(crate) fn man(arguments: &Man) -> Result<(), Failure> {
    let mut page = Vec::new();
    let command = documented(arguments.command.as_deref())?;
    clap_mangen::Man::new(command)
        .render(&mut page)
        .map_err(Failure::system)?;
    print(&page)
}

fn documented(name: Option<&str>) -> Result<clap::Command, Failure> {
    let mut program = crate::Arguments::command();
    program.build();
    let Some(name) = name else {
        return Ok(program);
    };
    let command = program.find_subcommand(name).cloned();
    command.ok_or_else(|| Failure::usage(format!("there is no command {name}")))
}

/// Whoever closes standard output early has read enough.
fn print(text: &[u8]) -> Result<(), Failure> {
    match io::stdout().lock().write_all(text) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(Failure::system(error)),
        Ok(()) | Err(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_has_a_manual_page() {
        let program = crate::Arguments::command();
        for command in program.get_subcommands() {
            assert!(documented(Some(command.get_name())).is_ok());
        }
        assert!(documented(None).is_ok());
        assert!(documented(Some("nothing")).is_err());
    }
}
