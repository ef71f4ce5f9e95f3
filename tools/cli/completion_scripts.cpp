#include <functional>

#include "core/check.h"
#include "datasets/registry.h"
#include "tools/cli/completion.h"

namespace flare {
namespace {

using Kind = Argument::Kind;

std::string joined(const std::vector<std::string>& words, const std::string& between) {
  std::string text;
  for (const std::string& word : words) text += (text.empty() ? "" : between) + word;
  return text;
}

void for_each_command(const CompletedCommand& command, const std::function<void(const CompletedCommand&)>& body) {
  body(command);
  for (const CompletedCommand& inner : command.commands) for_each_command(inner, body);
}

/// The alternatives of a `case` that finds the subcommand: 'flare train'|'flare data'|...
std::string command_pattern(const CompletedCommand& program) {
  std::vector<std::string> paths;
  for_each_command(program, [&](const CompletedCommand& c) {
    if (c.path != program.path) paths.push_back("'" + c.path + "'");
  });
  return joined(paths, "|");
}

std::string last_word(const std::string& path) { return path.substr(path.rfind(' ') + 1); }

/// Text inside single quotes of bash and zsh.
std::string quoted_text(const std::string& text) {
  std::string out;
  for (const char c : text) out += c == '\'' ? std::string("'\\''") : c == '\n' ? std::string(" ") : std::string(1, c);
  return out;
}

std::vector<std::string> key_texts() {
  std::vector<std::string> texts;
  for (const CompletedKey& key : completed_recipe_keys()) texts.push_back(key.text);
  return texts;
}

// ---- bash

std::string bash_argument(const Argument& argument) {
  switch (argument.kind) {
    case Kind::words:
      return std::string("kind=") + (argument.also_files ? "words+files" : "words") + " choices='" + joined(argument.words, " ") +
             "'";
    case Kind::files: return "kind=files";
    case Kind::folders: return "kind=folders";
    case Kind::recipe_keys: return "kind=recipe";
    case Kind::dataset_keys: return "kind=dataset";
    default: return "kind=none";
  }
}

// ---- zsh

/// Inside the [...] of an _arguments specification.
std::string zsh_help(const std::string& text) {
  std::string out;
  for (const char c : text) {
    if (c == '[' || c == ']' || c == ':' || c == '\\') out += '\\';
    out += c;
  }
  return quoted_text(out);
}

std::string zsh_action(const Argument& argument) {
  switch (argument.kind) {
    case Kind::words:
      return argument.also_files ? "_flare_words_or_files " + joined(argument.words, " ") : "(" + joined(argument.words, " ") + ")";
    case Kind::files: return "_files";
    case Kind::folders: return "_files -/";
    case Kind::recipe_keys: return "_flare_recipe_keys";
    case Kind::dataset_keys: return "_flare_dataset_keys";
    default: return " ";
  }
}

// ---- fish

std::string fish_quoted(const std::string& text) {
  std::string out = "'";
  for (const char c : text) {
    if (c == '\'' || c == '\\') out += '\\';
    out += c == '\n' ? ' ' : c;
  }
  return out + "'";
}

std::string fish_argument(const Argument& argument) {
  switch (argument.kind) {
    case Kind::words: return std::string(argument.also_files ? " -F" : "") + " -a " + fish_quoted(joined(argument.words, " "));
    case Kind::files: return " -F";
    case Kind::folders: return " -a '(__fish_complete_directories)'";
    case Kind::recipe_keys: return " -a '(__flare_recipe_keys)'";
    case Kind::dataset_keys: return " -a '(__flare_dataset_keys)'";
    default: return "";
  }
}

}  // namespace

std::string bash_completion(const CompletedCommand& program) {
  std::string out = R"(# Completion of flare for bash 4 and newer, printed by: flare completion bash
# In one shell: source <(flare completion bash)
_flare() {
  local -a words=()
  local i n=0 at=flare cur prev='' kind='' choices='' dataset=''
  COMPREPLY=()
  # bash may have split words at "="; here they are whole again.
  for ((i = 1; i <= COMP_CWORD; i++)); do
    if ((n > 0)) && [[ ${COMP_WORDS[i]} == = || ${COMP_WORDS[i - 1]} == = ]]; then
      words[n - 1]+=${COMP_WORDS[i]}
    else
      words[n]=${COMP_WORDS[i]}
      n=$((n + 1))
    fi
  done
  ((n > 0)) || return 0
  cur=${words[n - 1]}
  ((n > 1)) && prev=${words[n - 2]}
  for ((i = 0; i < n - 1; i++)); do
    case "$at ${words[i]}" in
      )" + command_pattern(program) +
                    R"() at="$at ${words[i]}" ;;
    esac
    case ${words[i]} in
)";
  for (const DatasetEntry& entry : registered_datasets())
    if (!entry.options.empty()) out += cat("      ", entry.name, ") dataset=", entry.name, " ;;\n");
  out += R"(    esac
  done
  if [[ $cur == --*=* ]]; then
    prev=${cur%%=*}
    cur=${cur#*=}
  fi
  case "$at $prev" in
)";
  for_each_command(program, [&](const CompletedCommand& c) {
    for (const CompletedOption& option : c.options)
      if (option.argument.kind != Kind::flag)
        for (const std::string& name : option.names)
          out += cat("    '", c.path, " ", name, "') ", bash_argument(option.argument), " ;;\n");
  });
  out += R"(  esac
  if [[ -z $kind && $cur == -* ]]; then
    kind=words
    case $at in
)";
  for_each_command(program, [&](const CompletedCommand& c) {
    std::vector<std::string> names;
    for (const CompletedOption& option : c.options) names.insert(names.end(), option.names.begin(), option.names.end());
    out += cat("      '", c.path, "') choices='", joined(names, " "), "' ;;\n");
  });
  out += R"(    esac
  elif [[ -z $kind ]]; then
    case $at in
)";
  for_each_command(program, [&](const CompletedCommand& c) {
    if (!c.commands.empty()) {
      std::vector<std::string> names;
      for (const CompletedCommand& inner : c.commands) names.push_back(last_word(inner.path));
      out += cat("      '", c.path, "') kind=words choices='", joined(names, " "), "' ;;\n");
    } else if (!c.positionals.empty()) {
      out += cat("      '", c.path, "') ", bash_argument(c.positionals.front()), " ;;\n");
    }
  });
  out += R"(    esac
  fi
  if [[ $kind == recipe ]]; then
    kind=keys choices=')" +
         joined(key_texts(), " ") + R"('
  elif [[ $kind == dataset ]]; then
    kind=keys
    case $dataset in
)";
  for (const DatasetEntry& entry : registered_datasets()) {
    std::vector<std::string> names;
    for (const DatasetOption& option : entry.options) names.push_back(option.name + "=");
    if (!names.empty()) out += cat("      ", entry.name, ") choices='", joined(names, " "), "' ;;\n");
  }
  out += R"(    esac
  fi
  case $kind in
    words | words+files) mapfile -t COMPREPLY < <(compgen -W "$choices" -- "$cur") ;;
    keys)
      # Keys first; the values of a key once it is there.
      mapfile -t COMPREPLY < <(compgen -W "$choices" -- "$cur" | if [[ $cur == *=* ]]; then grep -v '=$'; else grep '=$'; fi)
      [[ $cur == *=* ]] || compopt -o nospace 2>/dev/null
      if [[ $cur == *=* && $COMP_WORDBREAKS == *=* ]]; then COMPREPLY=("${COMPREPLY[@]#*=}"); fi
      ;;
    folders)
      compopt -o filenames 2>/dev/null
      mapfile -t COMPREPLY < <(compgen -d -- "$cur")
      ;;
  esac
  if [[ $kind == files || $kind == words+files ]]; then
    compopt -o filenames 2>/dev/null
    local -a files=()
    mapfile -t files < <(compgen -f -- "$cur")
    COMPREPLY+=("${files[@]}")
  fi
  return 0
}
complete -F _flare flare
)";
  return out;
}

std::string zsh_completion(const CompletedCommand& program) {
  std::string out = R"(#compdef flare
# Completion of flare for zsh, printed by: flare completion zsh
# Put it into a folder of $fpath as _flare, or in one shell: source <(flare completion zsh)
_flare_words_or_files() {
  compadd -- "$@"
  _files
}
_flare_keys() {
  local -a all=("$@") keys
  if [[ -prefix *= ]]; then
    local key=${PREFIX%%=*}
    keys=(${(M)all:#$key=?*})
    compset -P '*='
    compadd -- ${keys#*=}
  else
    keys=(${(M)all:#*=})
    compadd -S '' -- $keys
  fi
}
_flare_recipe_keys() {
  _flare_keys )" + joined(key_texts(), " ") +
                    R"(
}
_flare_dataset_keys() {
)";
  for (const DatasetEntry& entry : registered_datasets()) {
    std::vector<std::string> names;
    for (const DatasetOption& option : entry.options) names.push_back(option.name + "=");
    if (!names.empty()) out += cat("  ((${words[(I)", entry.name, "]})) && _flare_keys ", joined(names, " "), "\n");
  }
  out += R"(}
_flare() {
  local at=flare
  local -i i depth=1
  for ((i = 2; i < CURRENT; i++)); do
    case "$at ${words[i]}" in
      ()" +
         command_pattern(program) +
         R"() at="$at ${words[i]}"; depth=i ;;
    esac
  done
  words=("${(@)words[depth,-1]}")
  ((CURRENT -= depth - 1))
  local -a commands
  case $at in
)";
  for_each_command(program, [&](const CompletedCommand& c) {
    out += cat("    ('", c.path, "')\n");
    if (!c.commands.empty()) {
      out += "      commands=(";
      for (const CompletedCommand& inner : c.commands) {
        std::string help;
        for (const char x : inner.help) help += x == ':' ? std::string("\\:") : std::string(1, x);
        out += cat("\n        '", last_word(inner.path), ":", quoted_text(help), "'");
      }
      out += ")\n      [[ $PREFIX == -* ]] || _describe command commands\n";
    }
    out += "      _arguments";
    for (const CompletedOption& option : c.options)
      for (const std::string& name : option.names) {
        out += std::string(" \\\n        '") + (option.repeats ? "*" : "") + name + "[" + zsh_help(option.help) + "]";
        if (option.argument.kind != Kind::flag) out += cat(":value:", zsh_action(option.argument));
        out += "'";
      }
    if (c.commands.empty() && !c.positionals.empty())
      out += cat(" \\\n        '*:argument:", zsh_action(c.positionals.front()), "'");
    out += "\n      ;;\n";
  });
  out += R"(  esac
}
if [[ $zsh_eval_context[-1] == loadautofunc ]]; then
  _flare "$@"
else
  compdef _flare flare
fi
)";
  return out;
}

std::string fish_completion(const CompletedCommand& program) {
  std::string out = R"(# Completion of flare for fish, printed by: flare completion fish
# Put it into ~/.config/fish/completions/flare.fish, or in one shell: flare completion fish | source
function __flare_at
  set -l at flare
  for word in (commandline -opc)[2..-1]
    switch "$at $word"
      case )";
  for_each_command(program, [&](const CompletedCommand& c) {
    if (c.path != program.path) out += cat("'", c.path, "' ");
  });
  out += R"(
        set at "$at $word"
    end
  end
  test "$at" = "$argv[1]"
end
function __flare_recipe_keys
  printf '%s\t%s\n')";
  for (const CompletedKey& key : completed_recipe_keys())
    out += cat(" \\\n    ", fish_quoted(key.text), " ", fish_quoted(key.help));
  out += R"(
end
function __flare_dataset_keys
)";
  for (const DatasetEntry& entry : registered_datasets()) {
    if (entry.options.empty()) continue;
    out += cat("  if contains ", entry.name, " (commandline -opc)\n    printf '%s\\t%s\\n'");
    for (const DatasetOption& option : entry.options)
      out += cat(" ", fish_quoted(option.name + "="), " ", fish_quoted(option.help));
    out += "\n  end\n";
  }
  out += "end\ncomplete -c flare -f\n";
  for_each_command(program, [&](const CompletedCommand& c) {
    const std::string here = "complete -c flare -n \"__flare_at '" + c.path + "'\"";
    for (const CompletedCommand& inner : c.commands)
      out += cat(here, " -a ", last_word(inner.path), " -d ", fish_quoted(inner.help), "\n");
    if (c.commands.empty() && !c.positionals.empty()) out += cat(here, fish_argument(c.positionals.front()), "\n");
    for (const CompletedOption& option : c.options) {
      out += here;
      for (const std::string& name : option.names)
        out += name.starts_with("--") ? " -l " + name.substr(2) : " -s " + name.substr(1);
      if (option.argument.kind != Kind::flag)
        out += (option.argument.kind == Kind::files || option.argument.also_files ? " -r" : " -x") + fish_argument(option.argument);
      out += cat(" -d ", fish_quoted(option.help), "\n");
    }
  });
  return out;
}

}  // namespace flare
