#!/bin/sh
# Makes the secrets that docker-compose.yml hands to its services. What is there already is kept.
# The folder is yours alone; the files in it must be readable by the containers' users.
set -eu
folder=${FIDUCIARY_SECRETS:-secrets}
mkdir -p "$folder"
chmod 700 "$folder"
file=$folder/database_password
if [ ! -s "$file" ]; then
    (umask 077 && head -c 32 /dev/urandom | base64 | tr -d '\n=' >"$file.new")
    chmod 444 "$file.new"
    mv "$file.new" "$file"
    echo "made $file"
fi
