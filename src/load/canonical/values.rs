//! Single values: texts, booleans, numbers, sizes, durations, commands.

use super::{Canonical, Diagnostic, Form, Node, Path, Span, Value, scalars};

impl Canonical<'_> {
    pub(super) fn text(&mut self, node: Node, path: &Path<'_>) -> Option<Node> {
        self.only(node, path, "a string", |value| matches!(value, Value::Text(_)))
    }

    pub(super) fn choice(&mut self, node: Node, words: &[&str], path: &Path<'_>) -> Option<Node> {
        let node = self.text(node, path)?;
        let text = node.as_str().unwrap_or_default();
        if words.contains(&text) {
            return Some(node);
        }
        let known = words.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", ");
        let diagnostic = Diagnostic::error(format!("`{}` must be one of {known}", path.name()))
            .at(path)
            .mark(self.files.mark(node.span, ""))
            .nearest(text, words.iter().copied());
        self.diagnostics.push(diagnostic);
        None
    }

    pub(super) fn pull_policy(&mut self, node: Node, path: &Path<'_>) -> Option<Node> {
        const WORDS: [&str; 8] =
            ["always", "never", "build", "if_not_present", "missing", "refresh", "daily", "weekly"];
        let node = self.text(node, path)?;
        let text = node.as_str().unwrap_or_default();
        let every = text.strip_prefix("every_").is_some_and(|every| scalars::duration(every).is_some());
        if every || WORDS.iter().any(|word| text.contains(word)) {
            return Some(node);
        }
        let diagnostic = Diagnostic::error(format!(
            "`{text}` is no pull policy; known are {} and `every_<duration>`",
            WORDS.join(", ")
        ))
        .at(path)
        .mark(self.files.mark(node.span, ""))
        .nearest(text, WORDS);
        self.diagnostics.push(diagnostic);
        None
    }

    pub(super) fn container_name(&mut self, node: Node, path: &Path<'_>) -> Option<Node> {
        let node = self.text(node, path)?;
        let text = node.as_str().unwrap_or_default();
        let fits = text.as_bytes().windows(2).any(|pair| {
            pair[0].is_ascii_alphanumeric()
                && (pair[1].is_ascii_alphanumeric() || matches!(pair[1], b'_' | b'.' | b'-'))
        });
        if fits {
            return Some(node);
        }
        self.tell(
            node.span,
            path,
            format!("`{text}` is no container name: two or more of letters, digits, `_`, `.` and `-`, a letter or digit first"),
        )
    }

    pub(super) fn flag(&mut self, node: Node, path: &Path<'_>) -> Option<Node> {
        match &node.value {
            Value::Bool(_) => Some(node),
            Value::Text(text) => match scalars::flag(text) {
                Some(value) => {
                    if matches!(text.to_ascii_lowercase().as_str(), "y" | "yes" | "on" | "n" | "no" | "off") {
                        let told = Diagnostic::warning(format!("`{text}` is text, taken for {value}"))
                            .at(path)
                            .mark(self.files.mark(node.span, ""))
                            .help(format!("write `{value}`: only `true` and `false` are booleans"));
                        self.diagnostics.push(told);
                    }
                    Some(Node::new(Value::Bool(value), node.span))
                }
                None => self.tell(node.span, path, format!("`{text}` is no boolean; write true or false")),
            },
            _ => self.expected(&node, "a boolean", path),
        }
    }

    pub(super) fn integer(&mut self, node: &Node, low: i128, high: i128, path: &Path<'_>) -> Option<Node> {
        let value = match &node.value {
            Value::Int(value) => *value,
            #[expect(clippy::cast_possible_truncation, reason = "the cast saturates")]
            Value::Float(value) if value.fract() == 0.0 => *value as i128,
            Value::Text(text) => match text.parse::<i64>() {
                Ok(value) => return Some(Node::new(Value::Int(value.into()), node.span)),
                Err(_) => return self.tell(node.span, path, format!("`{text}` is no integer")),
            },
            _ => return self.expected(node, "an integer", path),
        };
        if (low..=high).contains(&value) {
            return Some(Node::new(Value::Int(value), node.span));
        }
        let message = format!("`{}` must be between {low} and {high}", path.name());
        self.tell(node.span, path, message)
    }

    pub(super) fn whole(&mut self, node: &Node, path: &Path<'_>) -> Option<Node> {
        match node.value {
            #[expect(clippy::cast_possible_truncation, reason = "the cast saturates")]
            Value::Float(value) if value.is_finite() => {
                Some(Node::new(Value::Int(value.trunc() as i128), node.span))
            }
            _ => self.integer(node, i64::MIN.into(), i64::MAX.into(), path),
        }
    }

    pub(super) fn number(&mut self, node: Node, path: &Path<'_>) -> Option<Node> {
        let value = match &node.value {
            Value::Int(_) | Value::Float(_) => return Some(node),
            Value::Text(text) => text.parse::<f64>().ok().filter(|value| value.is_finite()),
            _ => return self.expected(&node, "a number", path),
        };
        match value {
            Some(value) => Some(Node::new(Value::Float(value), node.span)),
            None => {
                let message = format!("`{}` is no number", node.as_str().unwrap_or_default());
                self.tell(node.span, path, message)
            }
        }
    }

    pub(super) fn mode(&mut self, node: &Node, path: &Path<'_>) -> Option<Node> {
        let mode = match &node.value {
            Value::Int(value) => u32::try_from(*value).ok(),
            Value::Text(text) => u32::from_str_radix(text, 8).ok(),
            _ => return self.expected(node, "a file mode such as \"0440\"", path),
        };
        match mode {
            Some(mode) => Some(Node::text(format!("0{mode:o}"), node.span)),
            None => self.tell(node.span, path, "this is no file mode; write it as \"0440\""),
        }
    }

    pub(super) fn bytes(&mut self, node: &Node, path: &Path<'_>) -> Option<Node> {
        let size = match &node.value {
            Value::Int(value) => Some(*value),
            Value::Float(value) => return Some(self.no_size(*value, node.span, path)),
            Value::Text(text) => scalars::bytes(text),
            _ => return self.expected(node, "a size such as `64m`", path),
        };
        match size {
            Some(size) => Some(Node::text(size.to_string(), node.span)),
            None => {
                let text = node.value.scalar_text().unwrap_or_default();
                Some(self.unfit(node, path, format!("`{text}` is no size; write it as `64m` or `1.5gb`")))
            }
        }
    }

    /// A number with a point or an exponent is not taken for a size, by the reference neither.
    pub(super) fn no_size(&mut self, value: f64, span: Span, path: &Path<'_>) -> Node {
        let told = Diagnostic::warning(format!(
            "`{}` is no size, since it has a point or an exponent; nothing is limited",
            path.name()
        ))
        .at(path)
        .mark(self.files.mark(span, ""))
        .help(format!("write a whole number of bytes, `{value:.0}`, or a size such as `64m`"));
        self.diagnostics.push(told);
        Node::text("0", span)
    }

    pub(super) fn duration(&mut self, node: &Node, path: &Path<'_>) -> Option<Node> {
        let Value::Text(text) = &node.value else {
            return self.expected(node, "a string such as `1m30s`", path);
        };
        match scalars::duration(text) {
            Some(nanos) => Some(Node::text(scalars::duration_text(nanos), node.span)),
            None => {
                let message =
                    format!("`{text}` is no duration; write a number with its unit, such as `1m30s`");
                Some(self.unfit(node, path, message))
            }
        }
    }

    pub(super) fn words(&mut self, node: Node, path: &Path<'_>) -> Option<Node> {
        let Value::Text(text) = &node.value else { return self.list(node, Form::Text, path) };
        match scalars::words(text) {
            Ok((words, cut)) => {
                if let Some(operator) = cut {
                    let diagnostic = Diagnostic::warning(format!(
                        "what follows `{operator}` is dropped: no shell runs this command"
                    ))
                    .at(path)
                    .mark(self.files.mark(node.span, ""))
                    .help("name the shell: [\"sh\", \"-c\", \"...\"]");
                    self.diagnostics.push(diagnostic);
                }
                let words = words.into_iter().map(|word| Node::text(word, node.span)).collect();
                Some(Node::new(Value::List(words), node.span))
            }
            Err(fault) => self.tell(node.span, path, fault.to_string()),
        }
    }

    pub(super) fn test(&mut self, node: Node, path: &Path<'_>) -> Option<Node> {
        let span = node.span;
        match node.value {
            Value::Text(_) => Some(Node::new(Value::List(vec![Node::text("CMD-SHELL", span), node]), span)),
            _ => self.list(node, Form::Text, path),
        }
    }
}
