// Package console is how the programs of this module begin, end and talk to people: text that cannot harm a terminal, and lines at its bottom that
// move while something is under way.
package console
