package edge

import "github.com/roadbed/roadbed/platform/edge/program"

// What the API tells and takes of programs, for those who call it.
type (
	ProgramDocument = program.Document       // one property that holds a program
	ProgramCanary   = program.Canary         // a version's share
	ProgramView     = program.ProgramView    // of GET /api/v1/edge/programs
	ProgramVersion  = program.ProgramVersion // one version of a program
	CheckedProgram  = program.CheckedProgram // of POST /api/v1/edge/programs/check
)

// ProgramProperty is what the properties that hold programs begin with.
const ProgramProperty = program.Prefix

// ParseProgram reads a document of a program, JSON or YAML.
func ParseProgram(text string) (*ProgramDocument, error) { return program.Parse(text) }
