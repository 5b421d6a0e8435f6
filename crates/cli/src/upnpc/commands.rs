//! The commands of `upnpc`, each with its lines.

mod about;
mod answers;
mod listing;
mod mappings;
mod pinholes;

use super::router::Router;
use super::{complain, plain, say};

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
}
