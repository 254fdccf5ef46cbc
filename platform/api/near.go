package api

import "strings"

// Distance is how far a name that somebody asked for is from one there is: Levenshtein's number of letters to add,
// remove or change, and 0 when have begins with asked. Errors use it to name what was probably meant.
func Distance(asked, have string) int {
	if strings.HasPrefix(have, asked) {
		return 0
	}
	row := make([]int, len(have)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(asked) {
		diag := row[0]
		row[0] = i + 1
		for j := range len(have) {
			up := row[j+1]
			d := diag
			if asked[i] != have[j] {
				d++
			}
			row[j+1] = min(d, up+1, row[j]+1)
			diag = up
		}
	}
	return row[len(have)]
}
