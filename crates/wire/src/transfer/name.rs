//! File names that mean the same single file in a directory on every system.

use super::escape;
use std::fmt;

/// Longest file name in bytes: what ext4, XFS, APFS and NTFS take for one component.
pub const MAX_NAME: usize = 255;

/// How the names of unfinished files end; no peer may send such a name.
pub const PART_SUFFIX: &str = ".postern-part";

/// Longest name that an error message repeats, in bytes before escaping.
const MAX_SHOWN: usize = 80;

/// The name of a file directly inside a directory, checked.
///
/// A `Name` is 1 to [`MAX_NAME`] bytes, usually UTF-8 but not always: Unix names are bytes
/// and travel unchanged. It cannot leave the directory (no separator of any system, not
/// `.` or `..`), holds no NUL, control character, line separator or bidirectional override
/// (they would deceive whoever lists the directory later), and is no name that another
/// system reads as something else (`CON`, `x:stream`, `x.`, `desktop.ini`).
///
/// It may begin with a dot ([`Name::is_hidden`]): whether such a file is welcome is the
/// receiver's decision. It may contain joiners and other invisible characters, which real
/// names in several scripts need; [`escape`] shows them.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(Box<[u8]>);

impl Name {
    /// Checks `bytes`.
    ///
    /// # Errors
    /// The first fault found, with the name escaped.
    pub fn parse(bytes: &[u8]) -> Result<Self, NameError> {
        match fault(bytes) {
            None => Ok(Self(bytes.into())),
            Some(fault) => Err(NameError::new(fault, bytes)),
        }
    }

    /// The bytes of the name.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Whether the name begins with a dot, which Unix hides and programs obey
    /// (`.bashrc`, `.ssh`).
    pub fn is_hidden(&self) -> bool {
        self.0.starts_with(b".")
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&escape(&self.0))
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Name({self})")
    }
}

/// A name that cannot be sent or received.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the file name \"{shown}\" {fault}")]
pub struct NameError {
    /// What is wrong with it.
    pub fault: NameFault,
    /// The name (its beginning, when it is long), escaped.
    pub shown: String,
}

impl NameError {
    fn new(fault: NameFault, bytes: &[u8]) -> Self {
        let beginning = bytes.get(..MAX_SHOWN).unwrap_or(bytes);
        let dots = if beginning.len() < bytes.len() {
            "…"
        } else {
            ""
        };
        let shown = format!("{}{dots}", escape(beginning));
        Self { fault, shown }
    }
}

/// What makes a name unacceptable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameFault {
    /// No bytes.
    #[error("is empty")]
    Empty,
    /// More than [`MAX_NAME`] bytes.
    #[error("is longer than 255 bytes")]
    TooLong,
    /// `.` or `..`.
    #[error("is a directory, not a file")]
    Directory,
    /// `/` or `\`.
    #[error("contains a path separator")]
    Separator,
    /// NUL, another control character or a line separator.
    #[error("contains a control character")]
    Control,
    /// A character that reverses the text after it.
    #[error("contains a character that reverses the direction of text")]
    Bidi,
    /// `:`, which opens a drive or an alternate stream on Windows.
    #[error("contains a colon, which Windows reads as a drive or a stream")]
    Colon,
    /// A trailing dot or blank, which Windows drops.
    #[error("ends with a dot or a blank, which Windows drops")]
    Ending,
    /// A device of Windows, or a file that its directory obeys.
    #[error("has a special meaning on Windows")]
    Reserved,
    /// The name of an unfinished file of postern's own.
    #[error("is the name of an unfinished transfer")]
    Part,
}

fn fault(bytes: &[u8]) -> Option<NameFault> {
    size_fault(bytes).or_else(|| byte_fault(bytes)).or_else(|| {
        std::str::from_utf8(bytes)
            .ok()
            .and_then(|text| character_fault(text).or_else(|| reserved_fault(text)))
    })
}

fn size_fault(bytes: &[u8]) -> Option<NameFault> {
    match bytes {
        b"" => Some(NameFault::Empty),
        b"." | b".." => Some(NameFault::Directory),
        _ if bytes.len() > MAX_NAME => Some(NameFault::TooLong),
        _ => None,
    }
}

/// Faults that do not depend on the encoding: they are found in names that are not UTF-8 too.
fn byte_fault(bytes: &[u8]) -> Option<NameFault> {
    let inside = bytes.iter().find_map(|byte| match byte {
        b'/' | b'\\' => Some(NameFault::Separator),
        0..=0x1f | 0x7f => Some(NameFault::Control),
        b':' => Some(NameFault::Colon),
        _ => None,
    });
    inside.or_else(|| {
        if bytes.ends_with(b".") || bytes.ends_with(b" ") {
            Some(NameFault::Ending)
        } else if bytes.ends_with(PART_SUFFIX.as_bytes()) {
            Some(NameFault::Part)
        } else {
            None
        }
    })
}

fn character_fault(text: &str) -> Option<NameFault> {
    text.chars().find_map(|c| match c {
        '\u{80}'..='\u{9f}' | '\u{2028}' | '\u{2029}' => Some(NameFault::Control),
        '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => Some(NameFault::Bidi),
        _ => None,
    })
}

/// Windows ignores the case and everything from the first dot on: `con.tar.gz` is the console.
fn reserved_fault(text: &str) -> Option<NameFault> {
    let folded = text.to_ascii_lowercase();
    let stem = folded.split('.').next().unwrap_or("").trim_end();
    let device = matches!(stem, "con" | "prn" | "aux" | "nul" | "conin$" | "conout$")
        || stem
            .strip_prefix("com")
            .or_else(|| stem.strip_prefix("lpt"))
            .is_some_and(is_device_number);
    let obeyed = matches!(folded.as_str(), "desktop.ini" | "autorun.inf");
    (device || obeyed).then_some(NameFault::Reserved)
}

fn is_device_number(text: &str) -> bool {
    let mut chars = text.chars();
    matches!(chars.next(), Some('0'..='9' | '¹' | '²' | '³')) && chars.next().is_none()
}
