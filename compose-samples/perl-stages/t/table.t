use strict;
use warnings;

use Table;

my @rows = Table::columns( "a 1", "b 20" );
die "order: @rows" unless $rows[0] =~ /^b\s+20$/ && $rows[1] =~ /^a\s+1$/;
print "ok\n";
