//! What all documents of UPnP have in common: limits, and repairs of what gateways do to XML.

use std::borrow::Cow;
use std::fmt::Write as _;

use roxmltree::{Document, Node, ParsingOptions};

/// The most bytes of a document.
pub const MAX_LEN: usize = 256 << 10;
/// The most elements inside each other. A gateway's description has twelve.
pub const MAX_DEPTH: usize = 32;
/// The most elements, pieces of text and the like. The longest document is a list of
/// mappings: with ten nodes and two texts in each entry that is room for 1,000 of them.
pub const MAX_NODES: u32 = 32 << 10;

/// An element, its text and its children. Names are without prefixes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Element {
    /// The name.
    pub name: String,
    /// The namespace; empty if there is none, and if the document had to be repaired.
    pub namespace: String,
    /// The text directly in the element, without white space around it.
    pub text: String,
    /// The elements in it, in their order.
    pub children: Vec<Self>,
}

/// Why bytes are not a document that we read: the sender's fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum XmlError {
    /// More than [`MAX_LEN`] bytes.
    #[error("the XML document is too long")]
    TooLong,
    /// Elements inside each other, more than [`MAX_DEPTH`].
    #[error("the XML document is too deep")]
    TooDeep,
    /// More than [`MAX_NODES`].
    #[error("the XML document has too many elements")]
    TooMany,
    /// A document type, in which entities could be declared.
    #[error("the XML document declares a type")]
    Doctype,
    /// Not XML, and no repair helped.
    #[error("not an XML document")]
    Malformed,
}

impl Element {
    /// Reads a document. What breaks a strict parser is repaired if it can be: prefixes that
    /// are not declared, `xmlns` without a space in front, bare ampersands, end tags that are
    /// missing, bytes around the document.
    ///
    /// # Errors
    ///
    /// Says why it is none.
    pub fn parse(bytes: &[u8]) -> Result<Self, XmlError> {
        if bytes.len() > MAX_LEN {
            return Err(XmlError::TooLong);
        }
        let text = String::from_utf8_lossy(bytes);
        let text = trim(&text)?;
        check_depth(text)?;
        match read(text) {
            Err(XmlError::Malformed) => read(&repair(text)?),
            other => other,
        }
    }

    /// The first child with this name, in any case.
    #[must_use]
    pub fn child(&self, name: &str) -> Option<&Self> {
        self.children_named(name).next()
    }

    /// The children with this name, in any case.
    pub fn children_named(&self, name: &str) -> impl Iterator<Item = &Self> {
        self.children
            .iter()
            .filter(move |child| child.name.eq_ignore_ascii_case(name))
    }

    /// The text of the first child with this name; empty if there is none.
    #[must_use]
    pub fn text_of(&self, name: &str) -> &str {
        self.child(name).map_or("", |child| child.text.as_str())
    }

    /// The first element with this name in any case, here or anywhere below.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<&Self> {
        if self.name.eq_ignore_ascii_case(name) {
            return Some(self);
        }
        self.children.iter().find_map(|child| child.find(name))
    }
}

/// Text as it stands between tags. What XML cannot say becomes U+FFFD.
///
/// ```
/// use postern_wire::upnp::xml::escape;
///
/// assert_eq!(escape("<a> & \"b\"\0"), "&lt;a&gt; &amp; &quot;b&quot;\u{fffd}");
/// ```
#[must_use]
pub fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        push_escaped(&mut escaped, character);
    }
    escaped
}

fn push_escaped(escaped: &mut String, character: char) {
    match character {
        '&' => escaped.push_str("&amp;"),
        '<' => escaped.push_str("&lt;"),
        '>' => escaped.push_str("&gt;"),
        '"' => escaped.push_str("&quot;"),
        '\'' => escaped.push_str("&apos;"),
        // A parser would make a line feed of it.
        '\r' => escaped.push_str("&#13;"),
        '\t' | '\n' | ' '.. if !matches!(character, '\u{fffe}' | '\u{ffff}') => {
            escaped.push(character);
        }
        _ => escaped.push('\u{fffd}'),
    }
}

/// Appends `<name>text</name>`.
pub fn push_element(document: &mut String, name: &str, text: &str) {
    _ = write!(document, "<{name}>{}</{name}>", escape(text));
}

/// From the first `<` to the last `>`, and no document type.
fn trim(text: &str) -> Result<&str, XmlError> {
    let from = text.find('<').ok_or(XmlError::Malformed)?;
    let to = text.rfind('>').ok_or(XmlError::Malformed)?;
    let text = text.get(from..=to).ok_or(XmlError::Malformed)?;
    let declares = text
        .as_bytes()
        .windows(9)
        .any(|window| window.eq_ignore_ascii_case(b"<!doctype"));
    if declares {
        Err(XmlError::Doctype)
    } else {
        Ok(text)
    }
}

/// Deep documents are refused before they cost anything. The count is right for what has no
/// `>` in an attribute, and [`Element::from_node`] counts again.
fn check_depth(text: &str) -> Result<(), XmlError> {
    let mut depth: usize = 0;
    for tag in text.split('<').skip(1) {
        let tag = tag.split('>').next().unwrap_or_default();
        if tag.starts_with('/') {
            depth = depth.saturating_sub(1);
        } else if !tag.starts_with(['?', '!']) && !tag.ends_with('/') {
            depth = depth.saturating_add(1);
        }
        if depth > MAX_DEPTH {
            return Err(XmlError::TooDeep);
        }
    }
    Ok(())
}

fn read(text: &str) -> Result<Element, XmlError> {
    let options = ParsingOptions {
        allow_dtd: false,
        nodes_limit: MAX_NODES,
        entity_resolver: None,
    };
    let document = Document::parse_with_options(text, options).map_err(|error| {
        if matches!(error, roxmltree::Error::NodesLimitReached) {
            XmlError::TooMany
        } else {
            XmlError::Malformed
        }
    })?;
    Element::from_node(document.root_element(), 1)
}

impl Element {
    fn from_node(node: Node<'_, '_>, depth: usize) -> Result<Self, XmlError> {
        if depth > MAX_DEPTH {
            return Err(XmlError::TooDeep);
        }
        let mut element = Self {
            name: node.tag_name().name().to_owned(),
            namespace: node.tag_name().namespace().unwrap_or_default().to_owned(),
            ..Self::default()
        };
        let mut text = String::new();
        for child in node.children() {
            if child.is_element() {
                let child = Self::from_node(child, depth.saturating_add(1))?;
                element.children.push(child);
            } else if child.is_text() {
                text.push_str(child.text().unwrap_or_default());
            }
        }
        text.trim().clone_into(&mut element.text);
        Ok(element)
    }
}

/// The document without attributes and prefixes, with every tag closed.
fn repair(text: &str) -> Result<String, XmlError> {
    let mut out = Repair::default();
    let mut rest = text;
    while let Some(at) = rest.find('<') {
        let (before, tag) = rest.split_at(at);
        out.text(before);
        rest = out.tag(tag)?;
        if out.is_whole() {
            break;
        }
    }
    out.close_to(0);
    Ok(out.document)
}

#[derive(Default)]
struct Repair {
    document: String,
    open: Vec<String>,
}

impl Repair {
    /// Whether the first element was closed: what follows is not part of the document.
    fn is_whole(&self) -> bool {
        self.open.is_empty() && !self.document.is_empty()
    }

    fn text(&mut self, text: &str) {
        if self.open.is_empty() {
            return;
        }
        let mut rest = text;
        while let Some(at) = rest.find('&') {
            let (before, entity) = rest.split_at(at);
            before
                .chars()
                .for_each(|c| push_escaped(&mut self.document, c));
            let known = known_entity(entity);
            self.document.push_str(known.unwrap_or("&amp;"));
            let used = known.map_or(1, str::len);
            rest = entity.get(used..).unwrap_or_default();
        }
        rest.chars()
            .for_each(|c| push_escaped(&mut self.document, c));
    }

    /// Takes the tag at the start of `text` and returns what follows it.
    fn tag<'a>(&mut self, text: &'a str) -> Result<&'a str, XmlError> {
        if let Some(rest) = text.strip_prefix("<!--") {
            return Ok(rest.split_once("-->").map_or("", |(_, rest)| rest));
        }
        if let Some(rest) = text.strip_prefix("<![CDATA[") {
            let (data, rest) = rest.split_once("]]>").unwrap_or((rest, ""));
            if !self.open.is_empty() {
                self.document.push_str(&escape(data));
            }
            return Ok(rest);
        }
        let (tag, rest) = text.split_once('>').unwrap_or((text, ""));
        let tag = tag.strip_prefix('<').unwrap_or(tag).trim();
        if tag.starts_with(['?', '!']) {
            return Ok(rest);
        }
        if let Some(name) = tag.strip_prefix('/') {
            self.end(&local_name(name));
        } else {
            self.start(tag)?;
        }
        Ok(rest)
    }

    fn start(&mut self, tag: &str) -> Result<(), XmlError> {
        let name = local_name(tag);
        if name.is_empty() {
            return Err(XmlError::Malformed);
        }
        if self.open.len() >= MAX_DEPTH {
            return Err(XmlError::TooDeep);
        }
        _ = write!(self.document, "<{name}>");
        self.open.push(name.into_owned());
        if tag.ends_with('/') {
            self.close_to(self.open.len().saturating_sub(1));
        }
        Ok(())
    }

    /// Closes the innermost element of this name and all inside it. A tag that ends nothing is
    /// left out.
    fn end(&mut self, name: &str) {
        let matching = |open: &String| open.eq_ignore_ascii_case(name);
        if let Some(depth) = self.open.iter().rposition(matching) {
            self.close_to(depth);
        }
    }

    fn close_to(&mut self, depth: usize) {
        for name in self.open.drain(depth..).rev() {
            _ = write!(self.document, "</{name}>");
        }
    }
}

/// The name at the start of a tag, without its prefix and without an `xmlns` that sticks to it.
fn local_name(tag: &str) -> Cow<'_, str> {
    let end = tag.find(|c: char| c.is_whitespace() || matches!(c, '/' | '>' | '='));
    let name = tag.get(..end.unwrap_or(tag.len())).unwrap_or_default();
    let name = match name.find("xmlns") {
        Some(at) if at > 0 => name.get(..at).unwrap_or_default(),
        _ => name,
    };
    let name = name.rsplit(':').next().unwrap_or_default();
    let sound = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    let mut clean: String = name.chars().filter(|c| sound(*c)).collect();
    if clean.starts_with(|c: char| !c.is_ascii_alphabetic() && c != '_') {
        clean.insert(0, '_');
    }
    if clean == name {
        Cow::Borrowed(name)
    } else {
        Cow::Owned(clean)
    }
}

/// The reference at the start of `text`, if a parser without declarations knows it.
fn known_entity(text: &str) -> Option<&str> {
    let (reference, _) = text.split_once(';')?;
    let known = match reference.strip_prefix("&#") {
        Some(number) => {
            let code = match number.strip_prefix('x') {
                Some(hex) => u32::from_str_radix(hex, 16),
                None => number.parse(),
            };
            code.is_ok_and(|code| matches!(code, 9 | 10 | 13 | 32..0xd800 | 0xe000..0xfffe))
        }
        None => matches!(reference, "&amp" | "&lt" | "&gt" | "&quot" | "&apos"),
    };
    let end = reference.len().saturating_add(1);
    text.get(..end).filter(|_| known)
}
