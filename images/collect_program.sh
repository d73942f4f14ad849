#!/bin/sh
# Copies programs into an empty image, each with the libraries that it loads and the licences of
# the packages that they come from:
#
#   images/collect_program.sh ROOT PROGRAM...
set -eu

root=$1
shift
for name; do
  program=$(command -v "$name")
  for file in "$program" $(ldd "$program" | grep -o '/[^ ]*'); do
    mkdir -p "$root${file%/*}"
    cp -L "$file" "$root$file"
    # dpkg knows a file by its place before or after /bin and /lib became links into /usr.
    owner=$(dpkg-query -S "$(readlink -f "$file")" 2>/dev/null || dpkg-query -S "$file" 2>/dev/null ||
      dpkg-query -S "$(readlink -f "$file" | sed 's,^/usr,,')")
    licence=/usr/share/doc/${owner%%:*}/copyright
    mkdir -p "$root${licence%/*}"
    cp -L "$licence" "$root$licence"
  done
done
