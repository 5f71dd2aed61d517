//! The policy that `checkrein init` writes: every gate in observe mode, with a comment on what it is for.

use super::detect::Found;
use super::known::Kind;

const HEAD: &str = r#"# The policy of this project. `checkrein policy check` checks it, `checkrein schema` lists its fields.
version = 1

[defaults]
# Every action is decided and recorded, and passes whatever a gate says. When `checkrein report` shows what you
# mean, write "enforce": here for all gates, or as `mode` of a section or of a single gate.
mode = "observe"
"#;

const EVERYTHING: &str = r#"
# For every tool. Gates of all sections that cover a tool add up.
[tools."*"]
# The fourth call of a tool with the same arguments in a run is a loop. It needs a run or a session to count in:
# name one with every action, in Python with `checkrein.acting(run=...)`. One without is refused in any mode.
loop = { same_call = 4 }
"#;

const MODELS: &str = r#"
# What calls of models cost, by the price book (`checkrein prices list`). Without a key everybody shares it; with
# `key = "action.user"` every user has one, and a call that names no user is refused in any mode.
[budgets.models]
limit = "20.00 usd"
window = "1d"

[models."*"]
budgets = ["models"]
# Held for the output of a call that sets no maximum itself; it has to be sent with the call.
reserve_output = 4096
# A model without a price is refused, because nobody could say what it takes: give it one in `[prices.models]`.
"#;

const AGENTS: &str = r#"
# What one run of an agent may call at all, tools of every kind. A limit of a run needs `key = "action.run"`.
# [tools."*"] has room for it:
#   limits = [{ key = "action.run", max_calls = 200, window = "1d" }]
"#;

const MCP: &str = r#"
# Tools of MCP servers, by the names that coding agents give them: mcp__SERVER__TOOL.
"#;

const MCP_ANY: &str = r#"
# Tools of MCP servers, where their names begin like that of their server.
# [tools."mcp__SERVER__*"]
# limits = [{ max_calls = 60, window = "1m" }]
"#;

const EXAMPLES: &str = r#"
# Examples of what else a tool may have. `checkrein policy explain` shows what a section says to an action.
#
# [tools."stripe.refund"]
# rules = ["args.amount > 0", "args.currency in ['eur', 'usd']"]   # conditions over the arguments
# limits = [{ key = "action.user", max_calls = 10, window = "1h", cooldown = "2s" }]
# budgets = [{ name = "refunds", cost = "0.30 usd" }]              # needs `[budgets.refunds]`
# once = { key = "'refund:' + args.payment_id" }                   # at most one run per key, always enforced
# breaker = { name = "stripe", max_fails = 3, reset = "60s" }      # stops when the service fails
# timeout = "20s"
"#;

/// The text of the policy.
pub(super) fn policy(found: &Found) -> String {
    let mut text = HEAD.to_owned();
    text.push_str(EVERYTHING);
    if found.has(&[Kind::Agents]) {
        text.push_str(AGENTS);
    }
    if found.has(&[Kind::Models, Kind::Agents]) {
        text.push_str(MODELS);
    }
    if !found.servers.is_empty() {
        text.push_str(MCP);
        for name in found.servers.keys() {
            text.push_str(&format!(
                "[tools.\"mcp__{name}__*\"]\nlimits = [{{ max_calls = 60, window = \"1m\" }}]\n\n"
            ));
        }
        text.truncate(text.trim_end().len());
        text.push('\n');
    } else if found.has(&[Kind::Mcp]) {
        text.push_str(MCP_ANY);
    }
    text.push_str(EXAMPLES);
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use checkrein::Engine;
    use checkrein::config::{Policies, PolicyFile};

    /// What is written works, and so do its examples when their comment signs are taken away.
    fn check(found: &Found) {
        let text = policy(found);
        assert!(text.lines().all(|line| line.chars().count() <= 120), "{text}");
        let examples =
            EXAMPLES.replace("\n# ", "\n").replace("\n#\n", "\n").replace("Examples of", "# Examples of");
        let used = format!("{text}\n[budgets.refunds]\nlimit = \"9 usd\"\n{examples}");
        for text in [text, used] {
            let file = PolicyFile::parse("checkrein.toml", &text, false);
            let file = file.unwrap_or_else(|error| panic!("{}\n{text}", error.report(120)));
            Policies::new(Engine::new(), file).unwrap();
        }
    }

    #[test]
    fn what_is_written_is_a_policy() {
        let mut found = Found::default();
        check(&found);
        for (name, kind) in [("openai", Kind::Models), ("langgraph", Kind::Agents), ("mcp", Kind::Mcp)] {
            found.packages.insert(name, (kind, Default::default()));
            check(&found);
        }
        for name in ["github", "a.b-c_d"] {
            found.servers.insert(name.to_owned(), Default::default());
            check(&found);
        }
    }
}
