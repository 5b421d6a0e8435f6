//! Text from a stranger, made safe for a terminal.

/// `bytes` as one line of text that cannot steer a terminal or disguise itself.
///
/// Control characters, line separators, bidirectional controls, zero-width and other
/// invisible characters and the backslash itself become `\u{…}`; bytes that are not
/// UTF-8 become `\x…`. Everything else stays as it is, so the result is unambiguous.
///
/// ```
/// use postern_wire::transfer::escape;
/// assert_eq!(escape("Grüße.txt".as_bytes()), "Grüße.txt");
/// assert_eq!(escape(b"a\x1b[2Jb\xff"), "a\\u{1b}[2Jb\\xff");
/// ```
pub fn escape(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        chunk.valid().chars().for_each(|c| push(&mut text, c));
        for byte in chunk.invalid() {
            text.push_str(&format!("\\x{byte:02x}"));
        }
    }
    text
}

fn push(text: &mut String, c: char) {
    if is_plain(c) {
        text.push(c);
    } else {
        text.extend(c.escape_unicode());
    }
}

fn is_plain(c: char) -> bool {
    !(c == '\\' || c.is_control() || is_invisible(c))
}

/// Default-ignorable and formatting characters, line separators and odd blanks.
fn is_invisible(c: char) -> bool {
    matches!(
        c,
        '\u{ad}'
            | '\u{34f}'
            | '\u{61c}'
            | '\u{115f}'..='\u{1160}'
            | '\u{17b4}'..='\u{17b5}'
            | '\u{180b}'..='\u{180f}'
            | '\u{200b}'..='\u{200f}'
            | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}'
            | '\u{3164}'
            | '\u{feff}'
            | '\u{ffa0}'
            | '\u{fff0}'..='\u{fffb}'
            | '\u{1bca0}'..='\u{1bca3}'
            | '\u{1d173}'..='\u{1d17a}'
            | '\u{e0000}'..='\u{e0fff}'
    )
}
