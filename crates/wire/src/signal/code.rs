//! The code that one person reads to the other.
//!
//! The words are the English list of BIP-39 (2048 words; no two share their first four
//! letters) with `clockwork` for `clock` and `crossover` for `cross`, copied from the
//! crate `bip39` 2.2.2, which is in the public domain (CC0-1.0); the list was first
//! published under the MIT licence. Two of its words are 22 bits: a stranger who may
//! guess once succeeds once in four million times.

use std::fmt;
use std::str::FromStr;
use std::sync::LazyLock;

/// Words in a code.
pub const WORDS_PER_CODE: usize = 2;

/// Largest mailbox number: a code has at most six digits.
pub const MAX_MAILBOX: u32 = 999_999;

/// Longest text that is read as a code, in bytes.
const MAX_INPUT: usize = 128;

static WORDS: LazyLock<Vec<&'static str>> =
    LazyLock::new(|| include_str!("words.txt").lines().collect());

/// A mailbox and the words that prove who may meet there: `7-crossover-clockwork`.
///
/// The server knows the number and never the words. [`Display`](fmt::Display) writes the
/// code; `Debug` leaves the words out.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Code {
    mailbox: u32,
    words: [&'static str; WORDS_PER_CODE],
}

/// Why a text is not a code.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CodeError {
    /// Nothing was typed.
    #[error("the code is empty")]
    Empty,
    /// The text is far too long.
    #[error("this is too long for a code")]
    TooLong,
    /// The text does not begin with a number.
    #[error("the code must begin with a number, like 7-crossover-clockwork")]
    NoMailbox,
    /// The number is none that a server gives.
    #[error("the number of a code is between 1 and {MAX_MAILBOX}")]
    BadMailbox,
    /// There are fewer than [`WORDS_PER_CODE`] words.
    #[error("the code has {found} of {WORDS_PER_CODE} words")]
    TooFewWords {
        /// Words found.
        found: usize,
    },
    /// There are more than [`WORDS_PER_CODE`] words.
    #[error("the code has {found} words, which is more than {WORDS_PER_CODE}")]
    TooManyWords {
        /// Words found.
        found: usize,
    },
    /// A word is not in the list.
    #[error("`{}` is not a word of any code; check its spelling", .word.escape_debug())]
    UnknownWord {
        /// The word as it was typed, in lower case.
        word: String,
    },
    /// The words were typed together and can be taken apart in two ways.
    #[error("`{}` can be read in two ways; put a hyphen between the words", .text.escape_debug())]
    Ambiguous {
        /// The letters that were typed together.
        text: String,
    },
}

impl Code {
    /// A code of a mailbox and words of the list.
    ///
    /// # Errors
    /// [`CodeError::BadMailbox`] and [`CodeError::UnknownWord`].
    pub fn new(mailbox: u32, words: [&str; WORDS_PER_CODE]) -> Result<Self, CodeError> {
        if !(1..=MAX_MAILBOX).contains(&mailbox) {
            return Err(CodeError::BadMailbox);
        }
        let [first, second] = words;
        Ok(Self {
            mailbox,
            words: [known(first)?, known(second)?],
        })
    }

    /// The number of the mailbox, from 1 to [`MAX_MAILBOX`].
    #[must_use]
    pub const fn mailbox(&self) -> u32 {
        self.mailbox
    }

    /// The words, in lower case.
    #[must_use]
    pub const fn words(&self) -> &[&'static str; WORDS_PER_CODE] {
        &self.words
    }

    /// What both sides take as the password: the words with hyphens between them.
    #[must_use]
    pub fn password(&self) -> String {
        self.words.join("-")
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.mailbox)?;
        self.words.iter().try_for_each(|word| write!(f, "-{word}"))
    }
}

impl fmt::Debug for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Code")
            .field("mailbox", &self.mailbox)
            .finish_non_exhaustive()
    }
}

/// Reads what a person typed: any case, any of `-`, `_`, `.`, `,` and white space between
/// the parts, and nothing between them where that can be read in one way only.
impl FromStr for Code {
    type Err = CodeError;

    fn from_str(text: &str) -> Result<Self, CodeError> {
        if text.len() > MAX_INPUT {
            return Err(CodeError::TooLong);
        }
        let text = text.trim().trim_matches(is_separator).to_ascii_lowercase();
        let letters = text.trim_start_matches(|c: char| c.is_ascii_digit());
        let digits = text.strip_suffix(letters).unwrap_or_default();
        let mailbox = parse_mailbox(&text, digits)?;
        let words = parse_words(letters)?;
        Self::new(mailbox, words)
    }
}

fn parse_mailbox(text: &str, digits: &str) -> Result<u32, CodeError> {
    match (text.is_empty(), digits.is_empty()) {
        (true, _) => Err(CodeError::Empty),
        (false, true) => Err(CodeError::NoMailbox),
        (false, false) => digits.parse().map_err(|_| CodeError::BadMailbox),
    }
}

fn parse_words(letters: &str) -> Result<[&str; WORDS_PER_CODE], CodeError> {
    let typed: Vec<&str> = letters
        .split(is_separator)
        .filter(|part| !part.is_empty())
        .collect();
    match typed.as_slice() {
        [] => Err(CodeError::TooFewWords { found: 0 }),
        [joined] => split_joined(joined),
        [first, second] => Ok([*first, *second]),
        more => Err(CodeError::TooManyWords { found: more.len() }),
    }
}

/// Takes two words apart that were typed without anything between them.
fn split_joined(text: &str) -> Result<[&str; WORDS_PER_CODE], CodeError> {
    let mut ways = (1..text.len())
        .filter_map(|at| text.split_at_checked(at))
        .filter(|(first, second)| find(first).is_some() && find(second).is_some());
    match (ways.next(), ways.next()) {
        (Some((first, second)), None) => Ok([first, second]),
        (Some(_), Some(_)) => Err(CodeError::Ambiguous { text: text.into() }),
        (None, _) => Err(match find(text) {
            Some(_) => CodeError::TooFewWords { found: 1 },
            None => CodeError::UnknownWord { word: text.into() },
        }),
    }
}

fn is_separator(c: char) -> bool {
    c.is_whitespace() || matches!(c, '-' | '_' | '.' | ',' | '\u{2010}'..='\u{2014}')
}

fn known(word: &str) -> Result<&'static str, CodeError> {
    find(word).ok_or_else(|| CodeError::UnknownWord { word: word.into() })
}

fn find(word: &str) -> Option<&'static str> {
    let at = WORDS.binary_search(&word).ok()?;
    WORDS.get(at).copied()
}

/// All words that a code may have, sorted.
#[must_use]
pub fn word_list() -> &'static [&'static str] {
    &WORDS
}

/// The words that begin with `prefix` in any case, sorted: for completion.
pub fn words_with_prefix(prefix: &str) -> impl Iterator<Item = &'static str> {
    let prefix = prefix.to_ascii_lowercase();
    let start = WORDS.partition_point(|word| *word < prefix.as_str());
    WORDS
        .iter()
        .skip(start)
        .copied()
        .take_while(move |word| word.starts_with(&prefix))
}
