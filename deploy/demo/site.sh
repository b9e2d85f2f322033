# Gives a site synthetic people, and lets it train on them. For a demonstration, never for records.
# FIDUCIARY_DEMO: name of the site, hospital or bank, how many people, seed.
set -eu
# shellcheck disable=SC2086  # four words
set -- $FIDUCIARY_DEMO
# A fresh policy refuses every plan.
sed -i 's/^purposes = \[\]$/purposes = ["message-routing"]/' "$FIDUCIARY_SITE/policy.toml"
if client data show messages >/dev/null 2>&1; then
    exit 0
fi
notes=$(mktemp -d)
trap 'rm -rf "$notes"' EXIT
client data demo "$notes/$1" --site "$1" --profile "$2" --subjects "$3" --seed "$4"
client data add "$notes/$1/notes.csv" --dataset messages \
    --subject subject_id --text text --label label \
    --purpose message-routing --legal-basis legitimate-interests
