// Classify a photo with the model of a bundle, in OpenCV's DNN module.
//
//   classify BUNDLE MODEL photo.jpg   prints the five likeliest labels
//   classify BUNDLE MODEL             checks the sample of the bundle; exit code 1 where it differs
//
// MODEL is written by: edgenas export BUNDLE --to onnx --reader opencv
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <iterator>
#include <stdexcept>
#include <string>
#include <vector>

#include <opencv2/core.hpp>
#include <opencv2/dnn.hpp>
#include <opencv2/imgcodecs.hpp>
#include <opencv2/imgproc.hpp>

// The text of a JSON file with 0 in place of null, which OpenCV's parser does not know.
std::string read_json(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    if (!file) throw std::runtime_error("cannot read " + path);
    const std::string text{std::istreambuf_iterator<char>(file), {}};
    std::string plain;
    bool quoted = false;
    for (size_t i = 0; i < text.size(); ++i) {
        if (text[i] == '"' && (i == 0 || text[i - 1] != '\\')) quoted = !quoted;
        const bool null = !quoted && text.compare(i, 4, "null") == 0;
        plain += null ? '0' : text[i];
        i += null ? 3 : 0;
    }
    return plain;
}

// What the manifest says of inputs and outputs. It is JSON, which OpenCV reads.
struct Manifest {
    int height = 0, width = 0;
    std::vector<double> mean, std;
    std::vector<std::string> labels;
    double tolerance = 0;

    explicit Manifest(const std::string& path) {
        const int flags = cv::FileStorage::MEMORY | cv::FileStorage::FORMAT_JSON;
        cv::FileStorage file(read_json(path), cv::FileStorage::READ | flags);
        const cv::FileNode told = file["preprocessing"];
        // These are what a bundle says only where it prepares images otherwise than below.
        for (const char* name : {"fit", "crop_fraction"})
            if (!told[name].empty())
                throw std::runtime_error(std::string("this example does not know ") + name);
        std::vector<int> shape;
        file["model"]["input_shape"] >> shape;
        height = shape.at(2), width = shape.at(3);
        told["mean"] >> mean;
        told["std"] >> std;
        file["labels"] >> labels;
        file["parity"]["tolerance"] >> tolerance;
    }
};

// The largest centre part of the right shape, resized, as numbers: (1, 3, height, width).
cv::Mat prepare(const cv::Mat& photo, const Manifest& manifest) {
    const int wide = std::min(photo.cols, photo.rows * manifest.width / manifest.height);
    const int high = std::min(photo.rows, photo.cols * manifest.height / manifest.width);
    const cv::Rect centre((photo.cols - wide) / 2, (photo.rows - high) / 2, wide, high);
    cv::Mat small;
    // The average over an area is close to the antialiased filter of the training.
    cv::resize(photo(centre), small, {manifest.width, manifest.height}, 0, 0, cv::INTER_AREA);
    cv::Mat input = cv::dnn::blobFromImage(small, 1.0 / 255, {}, {}, true);  // BGR to RGB
    const size_t area = size_t(manifest.height) * manifest.width;
    for (int channel = 0; channel < 3; ++channel) {
        float* values = input.ptr<float>() + channel * area;
        for (size_t i = 0; i < area; ++i)
            values[i] = float((values[i] - manifest.mean[channel]) / manifest.std[channel]);
    }
    return input;
}

// The float32 numbers of a .npy file of version 1, in their order.
std::vector<float> read_npy(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    char head[10];
    if (!file.read(head, 10) || std::memcmp(head, "\x93NUMPY\x01", 7) != 0)
        throw std::runtime_error("cannot read " + path);
    const size_t length = uint8_t(head[8]) + 256u * uint8_t(head[9]);
    std::string words(length, ' ');
    file.read(&words[0], std::streamsize(length));
    if (words.find("'<f4'") == std::string::npos) throw std::runtime_error(path + " has no floats");
    std::vector<float> values;
    for (float value; file.read(reinterpret_cast<char*>(&value), 4);) values.push_back(value);
    return values;
}

// Runs the sample input and compares the answer with the stored one.
bool check_sample(cv::dnn::Net& net, const Manifest& manifest, const std::string& bundle) {
    std::vector<float> sample = read_npy(bundle + "/sample_input.npy");
    const std::vector<float> wanted = read_npy(bundle + "/expected_output.npy");
    const int shape[] = {1, 3, manifest.height, manifest.width};
    net.setInput(cv::Mat(4, shape, CV_32F, sample.data()));
    const cv::Mat logits = net.forward();
    double largest = 0, most = 0;
    for (size_t i = 0; i < logits.total(); ++i) {
        largest = std::max(largest, std::abs(double(logits.ptr<float>()[i]) - wanted[i]));
        most = std::max(most, std::abs(double(wanted[i])));
    }
    const bool same = largest <= std::max(manifest.tolerance, 1e-4 * most);
    std::printf("sample output: %s (largest difference %.1e)\n", same ? "as expected" : "DIFFERENT",
                largest);
    return same;
}

void print_labels(const cv::Mat& logits, const Manifest& manifest) {
    const float* values = logits.ptr<float>();
    std::vector<int> order(manifest.labels.size());
    for (size_t i = 0; i < order.size(); ++i) order[i] = int(i);
    std::sort(order.begin(), order.end(), [&](int a, int b) { return values[a] > values[b]; });
    double sum = 0;
    for (int i : order) sum += std::exp(double(values[i]) - values[order[0]]);
    for (size_t i = 0; i < std::min<size_t>(5, order.size()); ++i)
        std::printf("%5.1f%%  %s\n", 100 * std::exp(double(values[order[i]]) - values[order[0]]) / sum,
                    manifest.labels[order[i]].c_str());
}

int main(int count, char** words) try {
    if (count < 3) throw std::runtime_error("classify BUNDLE MODEL [photo.jpg]");
    const std::string bundle = words[1];
    const Manifest manifest(bundle + "/manifest.json");
    cv::dnn::Net net = cv::dnn::readNetFromONNX(words[2]);
    if (count == 3) return check_sample(net, manifest, bundle) ? 0 : 1;
    const cv::Mat photo = cv::imread(words[3], cv::IMREAD_COLOR);  // turned as its EXIF says
    if (photo.empty()) throw std::runtime_error(std::string("cannot read ") + words[3]);
    net.setInput(prepare(photo, manifest));
    print_labels(net.forward(), manifest);
    return 0;
} catch (const std::exception& error) {
    std::fprintf(stderr, "error: %s\n", error.what());
    return 2;
}
