//! Packages and settings that `checkrein init` knows, and what they mean for a policy.

/// What a package brings into a project.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    /// It calls models.
    Models,
    /// It runs agents, whose tools call models too.
    Agents,
    /// It speaks MCP.
    Mcp,
    /// A package whose place a module of Checkrein takes.
    Replaced,
}

/// Packages of Python and crates, by their normalised names.
const PACKAGES: &[(&str, Kind)] = &[
    ("actgate", Kind::Replaced),
    ("actguard", Kind::Replaced),
    ("actiongate", Kind::Replaced),
    ("agno", Kind::Agents),
    ("anthropic", Kind::Models),
    ("async-openai", Kind::Models),
    ("auditgate", Kind::Replaced),
    ("autogen-agentchat", Kind::Agents),
    ("budgetgate", Kind::Replaced),
    ("claude-agent-sdk", Kind::Agents),
    ("cohere", Kind::Models),
    ("crewai", Kind::Agents),
    ("dspy", Kind::Agents),
    ("fastmcp", Kind::Mcp),
    ("genai", Kind::Models),
    ("google-adk", Kind::Agents),
    ("google-genai", Kind::Models),
    ("google-generativeai", Kind::Models),
    ("groq", Kind::Models),
    ("haystack-ai", Kind::Agents),
    ("instructor", Kind::Models),
    ("langchain", Kind::Agents),
    ("langchain-anthropic", Kind::Agents),
    ("langchain-core", Kind::Agents),
    ("langchain-google-genai", Kind::Agents),
    ("langchain-openai", Kind::Agents),
    ("langgraph", Kind::Agents),
    ("litellm", Kind::Models),
    ("llama-index", Kind::Agents),
    ("llama-index-core", Kind::Agents),
    ("mcp", Kind::Mcp),
    ("mistralai", Kind::Models),
    ("openai", Kind::Models),
    ("openai-agents", Kind::Agents),
    ("pydantic-ai", Kind::Agents),
    ("pydantic-ai-slim", Kind::Agents),
    ("rig-core", Kind::Agents),
    ("rmcp", Kind::Mcp),
    ("rulegate", Kind::Replaced),
    ("semantic-kernel", Kind::Agents),
    ("smolagents", Kind::Agents),
    ("strands-agents", Kind::Agents),
];

/// What a package is; names are compared as package indexes do: in any case, `.` and `_` like `-`.
pub(super) fn package(name: &str) -> Option<(&'static str, Kind)> {
    let name: String =
        name.chars().map(|c| if matches!(c, '.' | '_') { '-' } else { c.to_ascii_lowercase() }).collect();
    PACKAGES.iter().find(|(known, _)| *known == name).copied()
}

/// How a settings file names its MCP servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// JSON, with the servers under this member.
    Json(&'static str),
    /// TOML, with the servers under this table.
    Toml(&'static str),
}

/// Settings of coding agents, and where they name MCP servers.
pub(super) const SETTINGS: &[(&str, &str, Form)] = &[
    (".mcp.json", "MCP servers of the project", Form::Json("mcpServers")),
    (".claude/settings.json", "Claude Code", Form::Json("mcpServers")),
    (".claude/settings.local.json", "Claude Code", Form::Json("mcpServers")),
    (".cursor/mcp.json", "Cursor", Form::Json("mcpServers")),
    (".vscode/mcp.json", "VS Code", Form::Json("servers")),
    (".codex/config.toml", "Codex", Form::Toml("mcp_servers")),
    (".gemini/settings.json", "Gemini CLI", Form::Json("mcpServers")),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_compared_as_indexes_do() {
        assert_eq!(package("Google_GenAI"), Some(("google-genai", Kind::Models)));
        assert_eq!(package("openai.agents"), Some(("openai-agents", Kind::Agents)));
        assert_eq!(package("openaii"), None);
        assert!(PACKAGES.is_sorted(), "in the order of the alphabet, each once");
    }
}
