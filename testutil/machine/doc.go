// Package machine says what figures depend on: the machine that they were measured on, and the commit. It works on Linux.
package machine
