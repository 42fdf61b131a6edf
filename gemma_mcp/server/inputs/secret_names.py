"""Files that are never read because their names say that they hold keys or passwords.

The names are patterns as in a .gitignore; upper and lower case are the same. Later ones win, so `!name` allows again.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathspec import GitIgnoreSpec

__all__ = ["SECRETS", "SecretNames"]

SECRETS = (
    # Settings with passwords in them; the examples that are checked in have none.
    ".env", ".env.*", "*.env", ".envrc", "!.env.example", "!.env.sample", "!.env.template", "!.env.dist",
    "!example.env", "!sample.env",
    # Private keys and key stores.
    "*.pem", "*.key", "*.p12", "*.pfx", "*.jks", "*.keystore", "*.ppk", "*.kdbx", "*.kdb", "*.p8", "*.pkcs12",
    "*.agekey", "id_rsa*", "id_dsa*", "id_ecdsa*", "id_ed25519*", "!id_*.pub", ".ssh/", ".gnupg/",
    # What programs keep logins in, wherever the folder lies.
    ".netrc", "_netrc", ".npmrc", ".yarnrc.yml", ".pypirc", ".pgpass", ".my.cnf", ".htpasswd", ".git-credentials",
    "**/.git/config*", "**/.git/modules/**/config*", "**/.git/worktrees/**/config*", "**/.aws/credentials",
    "**/.aws/config", "**/.aws/sso/", ".azure/", ".gcloud/", "**/.config/gcloud/", "**/.kube/config", "kubeconfig",
    "*.kubeconfig", "**/.docker/config.json", ".dockercfg", ".terraformrc", "*.tfstate", "*.tfstate.*", "*.tfvars",
    "*.tfvars.json", "!*.tfvars.example", ".vault-token", "**/.cargo/credentials*", "**/.gem/credentials",
    "**/.config/gh/hosts.yml", "**/.config/rclone/rclone.conf", "master.key", ".claude.json",
    "**/.claude/.credentials.json", "**/.codex/auth.json",
    # Names that say it themselves; program text of that name is no secret.
    "credentials", "credentials.*", "*credentials.json", "*_credentials", "client_secret*.json", "secrets.*",
    "secret.*", ".secrets", "service-account*.json", "service_account*.json", "*-service-account.json",
    "*serviceaccount*.json", "firebase-adminsdk*.json", "*-firebase-adminsdk-*.json",
    *(f"!{name}.{kind}" for name in ("credentials", "secrets", "secret") for kind in (
        "c", "cc", "cpp", "cs", "go", "h", "hpp", "html", "java", "js", "jsx", "kt", "md", "php", "py", "rb", "rs",
        "rst", "scala", "swift", "ts", "tsx", "vue",
    )),
    # What a shell or a database client was told, passwords included.
    ".bash_history", ".zsh_history", ".python_history", ".psql_history", ".mysql_history", ".node_repl_history",
)  # fmt: skip
"""The deny-list that is on by default (`server.allow_secrets` switches it off, `server.deny` adds to it)."""


@dataclass(frozen=True)
class SecretNames:
    """Tells secret files by their paths. `further` patterns come after the list and win over it."""

    further: tuple[str, ...] = ()
    allow_secrets: bool = False
    _patterns: tuple[str, ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        patterns = (*(() if self.allow_secrets else SECRETS), *self.further)
        object.__setattr__(self, "_patterns", tuple(pattern.lower() for pattern in patterns))

    def match(self, *paths: str) -> bool:
        """Whether one of the paths, relative and with forward slashes, is that of a secret."""
        return any(self._spec.match_file(path.lower()) for path in paths)

    def among(self, paths: Iterable[str]) -> list[str]:
        """Those of the paths that are secret."""
        return [path for path in paths if self.match(path)]

    @cached_property
    def _spec(self) -> "GitIgnoreSpec":
        from pathspec import GitIgnoreSpec

        return GitIgnoreSpec.from_lines(self._patterns)
