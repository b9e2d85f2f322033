"""The `audit` command: everything that an outsider needs to check a log, offline and keyless."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from audit.bundle_verifier import verify_any
from audit.durable import write_durably
from audit.errors import ExitCode, MalformedInput
from audit.export_cli import export
from audit.export_file_cli import verify_export_command
from audit.keyring import Keyring
from audit.keyring_cli import app as keyring_commands
from audit.keys import VerifyKey
from audit.leaf import Leaf
from audit.options import Json, Log, WitnessOption, read_bytes, read_text, witness_keys
from audit.presentation import (
    print_entries,
    print_fields,
    print_report,
    progress_bar,
    say,
    write_text,
)
from audit.proof import MAX_PROOF_BYTES, Proof, verify_proof
from audit.receipt import MAX_RECEIPT_BYTES, Receipt, verify_receipt
from audit.search import EntryFilter, find_position, payload_or_forgotten, streamed_leaves
from audit.source import open_source
from audit.storage import META_KEY, META_ORIGIN, prove_entry
from audit.terminal import VersionOption, err, print_json, run_app
from audit.verifier import UNWITNESSED_HOURS
from audit.words import count_of

app = typer.Typer(
    name="audit",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
    help="""
Check the evidence that a Fiduciary federation leaves behind.

A log is an append-only Merkle tree (RFC 6962) of encrypted entries whose head is signed. The
compliance service keeps one in its database, every site keeps a journal of the same kind. These
commands **need no secret and no network**: they work on a copy, on any machine. A log is an SQLite
file, a folder, a PostgreSQL database (`postgresql://…`) or a bundle that `audit export` wrote.

**Verifier keys.** A log's public key is one line, `name+hash+base64`. The compliance service
publishes its own as `log_key` in `trust.json`. Get it from its owner and give it with `--key`:
without it, a log is checked only against the key that the log itself states.

**Examples**

- `audit verify compliance.sqlite --key "$(jq -r .log_key trust.json)"`
- `audit verify compliance.sqlite --key "$LOG_KEY" --witnesses 2 --witness sites.vkey`
- `audit export compliance.sqlite -o evidence.zip`
- `audit prove 17 --log compliance.sqlite -o entry-17.tlog-proof`
- `audit verify-proof entry-17.tlog-proof --key "$LOG_KEY"`
- `audit verify-receipt receipt.json --key "$LOG_KEY" --site-key "$SITE_KEY"`

**Exit codes.** 0 verified or done · 2 wrong usage · 4 no such file or entry · 5 a file is not what
it should be · 6 **verification failed** · 7 the database does not answer · 9 the file changed
meanwhile, or the entry is ambiguous
""",
)

KeyOption = Annotated[
    str | None,
    typer.Option(
        "--key",
        metavar="VKEY",
        help="Verifier key of the log, from its owner: name+hash+base64, or a file that holds it.",
        envvar="FIDUCIARY_LOG_KEY",
        show_default=False,
    ),
]
RequiredKey = Annotated[
    str,
    typer.Option(
        "--key",
        metavar="VKEY",
        help="Verifier key of the log, from its owner: name+hash+base64, or a file that holds it.",
        envvar="FIDUCIARY_LOG_KEY",
        show_default=False,
    ),
]


@app.callback()
def _root(_: VersionOption = False) -> None:
    pass


@app.command()
def verify(
    log: Log,
    key: KeyOption = None,
    checkpoint: Annotated[
        Path | None,
        typer.Option(
            "--checkpoint",
            metavar="FILE",
            help="A checkpoint of this log that you kept from earlier; the log must contain it.",
            show_default=False,
        ),
    ] = None,
    witness: WitnessOption = None,
    witnesses: Annotated[
        int,
        typer.Option(
            "--witnesses", metavar="N", min=0, help="So many of them must vouch for the log."
        ),
    ] = 0,
    unwitnessed_hours: Annotated[
        int,
        typer.Option(min=0, metavar="HOURS", help="How long entries may wait for their witnesses."),
    ] = UNWITNESSED_HOURS,
    json: Json = False,
) -> None:
    """Recompute a whole log and say what, if anything, is wrong with it.

    Checks every entry (canonical form, position, hash), every stored interior hash, and the root
    under every signed checkpoint. The log is only read, also while a service is using it.

    - With `--key` the log is the one that the key's owner signed. Without it, the log is only
      consistent with itself.
    - With `--checkpoint` nothing that this checkpoint covered was removed or changed since. Only
      this notices a log that was cut off *together with* its own checkpoints. Keep one each time:
      `audit show LOG --checkpoint > kept.txt`.
    - With `--witnesses N` at least N of the given witnesses cosigned this very history: a log that
      its own operator rewrote, with its own key, does not pass.

    A bundle of chosen entries (`audit export`) is checked proof by proof.

    Exit codes: 0 verified, 6 not; then the first bad entry and what is wrong are named.

    Example: `audit verify compliance.sqlite --key "$LOG_KEY" --checkpoint kept.txt`
    """
    known = read_text(checkpoint, MAX_PROOF_BYTES) if checkpoint else None
    keys = witness_keys(witness)
    if witnesses > len(keys):
        raise typer.BadParameter(
            f"demanded: {count_of(witnesses, 'witness')}, given: {count_of(len(keys), 'key')}; name"
            " each with --witness",
            param_hint="--witnesses",
        )
    with progress_bar("verifying", quiet=json) as progress:
        report = verify_any(
            log,
            _parse_key(key),
            known=known,
            witnesses=keys,
            required_witnesses=witnesses,
            unwitnessed_hours=unwitnessed_hours,
            progress=progress,
        )
    if json:
        print_json(report.to_json())
    else:
        print_report(log, report)
    if not report.ok:
        raise typer.Exit(ExitCode.VERIFICATION_FAILED)


@app.command()
def prove(
    entry: Annotated[
        str,
        typer.Argument(
            metavar="ID",
            help="Position of the entry (`17`), or the id of what it is about: a statement's"
            " digest, or `kind:digest` as `audit show` prints it.",
            show_default=False,
        ),
    ],
    log: Annotated[str, typer.Option("--log", metavar="LOG", help="Where the log is; see above.")],
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", metavar="FILE", help="Write here instead of to the screen."),
    ] = None,
    json: Json = False,
) -> None:
    """Write a proof that an entry is in the log, for someone who does not have the log.

    The proof is a C2SP `.tlog-proof`: the entry itself (encrypted payload included, as the `extra`
    line), its path in the Merkle tree, and the signed checkpoint. It verifies offline with
    `audit verify-proof` or any other implementation of c2sp.org/tlog-proof.

    Example: `audit prove 17 --log compliance.sqlite -o entry-17.tlog-proof`
    """
    with open_source(log) as source:
        reader = source.reader()
        position = find_position(source, entry)
        proof = prove_entry(reader, position, with_leaf=True)
        stated = VerifyKey.parse(reader.read_meta(META_KEY) or "")
    verify_proof(proof, stated)  # a damaged log must not issue a proof that nobody can verify
    text = proof.encoded()
    if output is not None:
        write_durably(output, text.encode("utf-8"), mode=0o644)
    if json:
        print_json({"position": position, "proof": text, "file": str(output) if output else None})
    elif output is None:
        write_text(text)
    else:
        err().print(f"proof of entry {position} written to {escape(str(output))}", highlight=False)


@app.command(name="verify-proof")
def verify_proof_command(
    proof_file: Annotated[
        Path, typer.Argument(metavar="FILE", help="A `.tlog-proof` file.", show_default=False)
    ],
    key: RequiredKey,
    leaf: Annotated[
        Path | None,
        typer.Option(
            "--leaf", metavar="FILE", help="The entry's bytes, when the proof does not carry them."
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Check a proof of one log entry, without the log.

    Prints the entry's clear fields. Its payload stays encrypted.

    Example: `audit verify-proof entry-17.tlog-proof --key "$LOG_KEY"`
    """
    proof = Proof.parse(read_text(proof_file, MAX_PROOF_BYTES))
    data = read_bytes(leaf, MAX_PROOF_BYTES) if leaf else proof.extra
    checkpoint = verify_proof(proof, _required_key(key), leaf=data)
    entry = Leaf.parse(data or b"")
    if entry.position != proof.index:
        raise MalformedInput(
            f"the entry says that it is entry {entry.position}, the proof is of {proof.index}"
        )
    if json:
        print_json(
            {
                "verified": True,
                "origin": checkpoint.origin,
                "signed_entries": checkpoint.size,
                "entry": entry.clear(),
            }
        )
        return
    say(
        f"[bold green]verified[/] entry {proof.index} of {escape(checkpoint.origin)}, under the"
        f" signed checkpoint of {count_of(checkpoint.size, 'entry')}"
    )
    print_fields(entry.clear())


@app.command()
def show(
    log: Log,
    keyring: Annotated[
        Path | None,
        typer.Option(
            "--keyring", metavar="DIR", help="Decrypt payloads with this keyring. Needs its owner."
        ),
    ] = None,
    actor: Annotated[str | None, typer.Option(help="Only entries by this actor.")] = None,
    action: Annotated[
        str | None, typer.Option(help="Only this action, or with a trailing `.` all below it.")
    ] = None,
    object_: Annotated[
        str | None,
        typer.Option(
            "--object", metavar="ID", help="Only entries about this: a digest, or its first digits."
        ),
    ] = None,
    subject: Annotated[str | None, typer.Option(help="Only entries of this pseudonym.")] = None,
    after: Annotated[int, typer.Option(min=-1, help="Only entries after this position.")] = -1,
    limit: Annotated[int, typer.Option(min=1, help="At most so many entries.")] = 100,
    checkpoint: Annotated[
        bool, typer.Option("--checkpoint", help="Print the latest signed checkpoint instead.")
    ] = False,
    json: Json = False,
) -> None:
    """List entries of a log: who did what to which thing, and when.

    Without a keyring only the clear fields are shown; payloads are encrypted. With `--keyring` the
    payloads are too, except those whose key was destroyed: they are forgotten. This command does
    not verify the log; `audit verify` does.

    Example: `audit show journal.sqlite --action plan. --limit 20`
    """
    keys = Keyring.open(keyring) if keyring else None
    with open_source(log) as source:
        if checkpoint:
            note = source.reader().head()[0] or ""
            print_json({"checkpoint": note}) if json else write_text(note)
            return
        origin = source.meta().get(META_ORIGIN, "")
        wanted = EntryFilter(actor, action, object_, subject)
        shown: list[dict[str, Any]] = []
        for leaf in streamed_leaves(source, after):
            if wanted.accepts(leaf):
                fields = leaf.clear()
                if keys is not None:
                    fields["payload"] = payload_or_forgotten(leaf, origin, keys)
                shown.append(fields)
                if len(shown) == limit:
                    break
    if keys is not None:
        keys.close()
    if json:
        print_json({"origin": origin, "entries": shown})
    else:
        print_entries(shown)


@app.command(name="verify-receipt")
def verify_receipt_command(
    receipt_file: Annotated[
        Path, typer.Argument(metavar="RECEIPT", help="A receipt file.", show_default=False)
    ],
    key: RequiredKey,
    site_key: Annotated[
        str | None,
        typer.Option(
            "--site-key",
            metavar="VKEY",
            help="Verifier key of the site (or other party) that signed the statement.",
            show_default=False,
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Check a receipt: a signed statement and the proof that the log recorded it.

    Verified means that the statement's signature is right, that the log entry is about exactly this
    statement, and that the entry is in the signed log. Without `--site-key` the statement's own
    signature is not checked, unless the log signed it, and the output says so.

    Of an erasure's receipt the follow-ups are verified too: which releases were found, and what was
    decided and done about each. The service signed them, so `--key` is enough.

    Example: `audit verify-receipt erasure.json --key "$LOG_KEY" --site-key "$SITE_KEY"`
    """
    receipt = Receipt.parse(read_bytes(receipt_file, MAX_RECEIPT_BYTES))
    verified = verify_receipt(receipt, _required_key(key), _parse_key(site_key))
    if json:
        print_json(
            {
                "verified": True,
                "statement_signature_checked": verified.signer is not None,
                "statement": verified.body,
                "entry": verified.leaf.clear(),
                "origin": verified.checkpoint.origin,
                "signed_entries": verified.checkpoint.size,
                "follow_ups": [
                    {"statement": one.body, "entry": one.leaf.clear()}
                    for one in verified.follow_ups
                ],
            }
        )
        return
    say(
        f"[bold green]verified[/] receipt: entry {verified.leaf.position} of"
        f" {escape(verified.checkpoint.origin)} records this statement"
    )
    if verified.signer is None:
        say("[yellow]not checked:[/] the statement's own signature (give --site-key)")
    else:
        say(f"signed by {escape(verified.signer.name)}")
    print_fields({"time": verified.leaf.time} | verified.body)
    for one in verified.follow_ups:
        say(f"\n[bold green]verified[/] follow-up: entry {one.leaf.position}")
        print_fields({"time": one.leaf.time} | one.body)


app.command("verify-export")(verify_export_command)


app.command()(export)
app.add_typer(keyring_commands)


def main() -> None:
    """Entry point of the `audit` command."""
    run_app(app)


def _parse_key(text: str | None) -> VerifyKey | None:
    return None if text is None else _required_key(text)


def _required_key(text: str) -> VerifyKey:
    if "+" not in text and Path(text).is_file():
        text = read_text(Path(text), 10_000)
    return VerifyKey.parse(text)
