"""Finding and replacing what identifies people, before anything is stored."""

import os

# Presidio's e-mail recogniser asks tldextract for domains, which would fetch the Public Suffix List
# from the Internet when it is first used: a site asks nobody, and what is found does not depend on
# the day. The list that comes with the package is used. Read when tldextract is imported.
os.environ["TLDEXTRACT_PUBLIC_SUFFIX_LIST_URLS"] = ""
