require "csv"
require "date"

# Books that were lent, each for so many days.
class Loans
  Loan = Struct.new(:title, :since, :days) do
    def late(today)
      [(today - (since + days)).to_i, 0].max
    end
  end

  def initialize(text)
    @loans = CSV.parse(text, headers: true).map do |row|
      Loan.new(row["title"], Date.iso8601(row["since"]), Integer(row["days"]))
    end
  end

  def late(today)
    late = @loans.map { |loan| [loan.title, loan.late(today)] }
    late.select { |_, days| days.positive? }.sort_by { |title, days| [-days, title] }
  end
end
