//! Which server to use: the flag, then the environment, then the configuration file.

use std::path::{Path, PathBuf};

use clap::Args;
use postern::ServerUrl;
use serde::Deserialize;

use crate::failure::Failure;

/// The server that introduces the two sides.
#[derive(Debug, Args)]
pub(crate) struct ServerArguments {
    /// The server both sides use, as it printed its URL
    #[arg(
        long,
        value_name = "URL",
        env = "POSTERN_SERVER",
        hide_env_values = true
    )]
    server: Option<String>,
}

/// The configuration file.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    server: Option<String>,
}

impl ServerArguments {
    /// The URL of the server.
    pub(crate) fn url(&self) -> Result<ServerUrl, Failure> {
        let path = file_path();
        let text = match (&self.server, &path) {
            (Some(text), _) => Some(text.clone()),
            (None, Some(path)) => read(path)?.server,
            (None, None) => None,
        };
        let text = text.ok_or_else(|| no_server(path.as_deref()))?;
        text.parse()
            .map_err(|error: postern::ServerUrlError| Failure::usage(error.to_string()))
    }

    /// What the other side has to add to its command in order to use the same server.
    pub(crate) fn for_the_other_side(&self) -> String {
        match &self.server {
            Some(url) => format!("--server '{url}' "),
            None => String::new(),
        }
    }
}

fn no_server(path: Option<&Path>) -> Failure {
    let file = path.map_or_else(
        || "the configuration file".to_owned(),
        |path| path.display().to_string(),
    );
    Failure::usage(format!(
        "no server is known: pass --server URL, set POSTERN_SERVER, or write server = \"URL\" into {file}; \
         `postern server` on a machine that both sides can reach prints its URL"
    ))
}

fn file_path() -> Option<PathBuf> {
    let directories = directories::ProjectDirs::from("", "", "postern")?;
    Some(directories.config_dir().join("config.toml"))
}

fn read(path: &Path) -> Result<File, Failure> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(File::default()),
        Err(error) => return Err(unusable(path, &error.to_string())),
    };
    toml::from_str(&text).map_err(|error| unusable(path, error.message()))
}

fn unusable(path: &Path, why: &str) -> Failure {
    Failure::usage(format!("{} cannot be used: {why}", path.display()))
}
