#!/bin/sh
# Deploys a release of a program that binds a port itself: Node, Python or any other. The supervisor keeps the port, so no
# request is lost, and a release that does not become ready does not take over.
#
#   deploy.sh NAME ROOT RELEASE
#   deploy.sh shop /srv/shop 2026-01-31
#
# ROOT/releases/RELEASE is the release, and ROOT/current a symbolic link to the one that serves. The supervisor was started
# like this, and looks up the link again at each start of the program:
#
#   supervisor exec --name shop --listen 8080 --relay http --dir /srv/shop/current --ready http=/ -- node server.js
#
# Exit codes: 0 the release serves; otherwise it does not, and the one before keeps serving.
set -eu
name=${1:?usage: deploy.sh NAME ROOT RELEASE}
root=${2:?usage: deploy.sh NAME ROOT RELEASE}
release=${3:?usage: deploy.sh NAME ROOT RELEASE}

exec 9< "$root"
code=0
flock -n -E 75 9 2> /dev/null || code=$? # Some network file systems cannot lock a directory.
[ "$code" != 75 ] || { echo "deploy: another deploy of $root is in progress" >&2; exit 1; }
before=$(readlink "$root/current")
# A link is replaced in one step only by a rename.
switch() {
    ln -sfn "$1" "$root/current.next"
    mv -T "$root/current.next" "$root/current"
}

[ -d "$root/releases/$release" ] || { echo "deploy: there is no $root/releases/$release" >&2; exit 1; }
# From here on it is not interrupted, by Ctrl-C or by a connection that is lost: the link has to be right at the end.
trap '' HUP INT TERM
switch "releases/$release"
code=0
admin-cli --name "$name" restart || code=$?
case $code in
    0) ;;
    # The old program's clients did not disconnect in time, or it did not end. The new one serves.
    5 | 8) echo "deploy: $release serves, some clients of $before were closed by force" ;;
    6 | 7)
        echo "deploy: it is not known whether $release serves; ask: admin-cli --name $name status" >&2
        exit "$code"
        ;;
    *)
        # The next start, after a crash for example, is one of the release that works.
        switch "$before"
        echo "deploy: $release did not take over, $before keeps serving" >&2
        exit "$code"
        ;;
esac
