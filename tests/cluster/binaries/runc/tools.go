//go:build tools

// Package tools pins what starts the containers of the test nodes.
package tools

import _ "github.com/opencontainers/runc"
