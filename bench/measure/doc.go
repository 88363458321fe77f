// Package measure is what the commands of this module measure with, whatever it is that they measure.
package measure
